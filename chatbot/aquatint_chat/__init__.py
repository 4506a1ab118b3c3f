"""The chat page's backend: conversations in which a language model talks and an MCP server generates images.

It knows nothing about Triton, diffusion or how images are made: it sees tools, their progress and their results.
"""
