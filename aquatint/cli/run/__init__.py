"""``aquatint run``: everything on one machine, supervised, from the demo checkpoint to the chat page.

This package starts the other programs and knows nothing about what they do: it gives them ports and folders, waits
until they answer, and stops them in order.
"""
