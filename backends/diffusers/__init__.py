"""Diffusers in one process: whole pipelines for what has not been exported, as a Triton backend and for KServe."""
