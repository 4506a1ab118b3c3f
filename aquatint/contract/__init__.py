"""The contract of every server and client: request, events, model information, errors, and how they travel.

Knows nothing about the transport of any protocol, or about how an image is computed.
"""
