"""The text-to-image models inside Triton: they speak the protocol and compute nothing.

This package knows the request contract and Triton's Python backend, and nothing about how pixels are computed.
"""
