"""Triton python-based backends: each folder is a backend of that name. They know nothing about text or images."""
