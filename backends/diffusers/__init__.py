"""Diffusers as an engine: whole pipelines in one process, for what has not been exported, and a Triton backend."""
