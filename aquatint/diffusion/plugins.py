"""Modules that add themselves to a package by defining a constant."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any


def defined_in(package: str, path: Iterable[str], constant: str) -> list[Any]:
    """Import every module of ``package``, found on ``path``, and list what they define as ``constant``."""
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(path)]
    return [getattr(module, constant) for module in modules if hasattr(module, constant)]
