"""``python -m aquatint_mcp``."""

from aquatint_mcp.commands import main

main()
