"""Aquatint: Stable Diffusion 3.5 on NVIDIA Triton. This package is the core; it imports no ML framework."""

from aquatint._version import __version__

__all__ = ["__version__"]
