"""Backends that run in Triton's Python processes, each in the folder of its name, and the KServe runtime."""
