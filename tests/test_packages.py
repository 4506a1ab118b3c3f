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


def test_every_package_is_installed() -> None:
    """A package that is not listed is missing from the wheel."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in tool["package-dir"].items()}
    found = {
        ".".join([name, *init.parent.relative_to(folder).parts])
        for name, folder in folders.items()
        for init in folder.rglob("__init__.py")
    }
    assert {*tool["packages"]} == found
