"""The MCP server: agents draw, list, fetch and delete pictures. It knows nothing of how pictures are drawn.

``mcp/`` itself must never become a package: it would hide the MCP SDK of the same name.
"""
