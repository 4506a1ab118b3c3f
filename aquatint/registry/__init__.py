"""Versions of models in a folder, a volume or S3, and how a running Triton is made to serve one of them."""

from aquatint.registry.service import REPOSITORY, deploy, embedded
from aquatint.registry.swap import LiveTriton, swap
from aquatint.registry.trial import try_prompts
from aquatint.registry.versions import Pointer, Registry, Version, files_under

__all__ = [
    "REPOSITORY",
    "LiveTriton",
    "Pointer",
    "Registry",
    "Version",
    "deploy",
    "embedded",
    "files_under",
    "swap",
    "try_prompts",
]
