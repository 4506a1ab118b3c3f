"""Versioned models in a folder, a volume or S3, and how one of them becomes what a running Triton serves."""

from aquatint.registry.service import REPOSITORY, deploy, embedded
from aquatint.registry.swap import LiveTriton, swap
from aquatint.registry.trial import draw
from aquatint.registry.versions import Pointer, Registry, Version, files_under

__all__ = [
    "REPOSITORY",
    "LiveTriton",
    "Pointer",
    "Registry",
    "Version",
    "deploy",
    "draw",
    "embedded",
    "files_under",
    "swap",
]
