"""The chat page's backend: a conversation in which a language model talks and an MCP server draws.

It knows nothing about Triton, diffusion or how pictures are made: it sees tools, their progress and their results.
"""
