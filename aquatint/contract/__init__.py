"""The contract of every server and client: request, events, model information, errors, and how they travel.

Knows nothing about any protocol's transport, or how an image is computed.
"""
