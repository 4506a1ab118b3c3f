"""Programs that only the distribution has: a test skips by name where one is missing, and fails there in CI."""

from __future__ import annotations

import os
import shutil

import pytest

_VARIABLES = {"chromium": "AQUATINT_CHROMIUM"}


def program(name: str) -> str:
    """Find ``name``, from its variable or on the PATH."""
    found = shutil.which(os.environ.get(_VARIABLES.get(name, ""), name))
    if found is not None:
        return found
    package = "prometheus" if name == "promtool" else name
    why = f"{name} is missing: apt install {package}"
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
