"""Run ``python -m aquatint_backends.aquatint_runtime``."""

from aquatint_backends.aquatint_runtime.commands import main

main()
