"""What pyproject.toml says about every package."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_type_checked() -> None:
    """mypy finds a package whose folder has another name only by its link in ``typings``."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    folders = tool["setuptools"]["package-dir"]
    assert {*tool["mypy"]["packages"]} == {*folders, "tests"}
    links = {name: ROOT / "typings" / name for name, folder in folders.items() if name != folder}
    assert {*(ROOT / "typings").iterdir()} == {*links.values()}
    for name, link in links.items():
        assert link.resolve() == ROOT / folders[name]
