"""The denoiser inside Triton: images in flight, each at its own timestep, stepped together by one engine.

Knows nothing about prompts, image files or who asked.
"""
