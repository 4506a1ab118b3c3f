"""Aquatint: Stable Diffusion 3.5 on NVIDIA Triton. This package is the core; it imports no ML framework."""

__version__ = "0.1.0"
