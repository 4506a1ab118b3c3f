"""The MCP server: agents generate, list, fetch and delete images. It knows nothing about how images are generated.

``mcp/`` itself must never become a package: it would hide the MCP SDK of the same name.
"""
