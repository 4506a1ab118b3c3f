"""``python -m aquatint_pipelines``."""

from aquatint_pipelines.commands import main

main()
