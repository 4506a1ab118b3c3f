"""The MCP server: agents draw, list, fetch and delete pictures. It knows nothing of how pictures are drawn.

``mcp/`` itself must never become a package: it would hide the MCP SDK of the same name.
"""

from aquatint_mcp.app import create_app
from aquatint_mcp.server import build_server

__all__ = ["build_server", "create_app"]
