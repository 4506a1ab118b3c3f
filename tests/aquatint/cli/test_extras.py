"""What is printed where packages are missing."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aquatint.cli import extras


def test_a_missing_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, extras.needs("export", "aquatint export"):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    # The brackets are what rich would take for markup.
    assert printed == "aquatint export needs more packages (torch.nn is missing): pip install 'aquatint[export]'\n"


def test_our_own_mistakes_are_not_called_missing_packages() -> None:
    with pytest.raises(ModuleNotFoundError), extras.needs("export", "x"):
        raise ModuleNotFoundError("No module named 'aquatint.nothing'", name="aquatint.nothing")


def test_a_group_without_its_packages_explains_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_psutil(name: str, package: str | None = None) -> Any:
        return None if name == "psutil" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_psutil)
    app = typer.Typer()
    app.command("other")(lambda: None)
    extras.add_commands(app, "aquatint.cli.registry", name="registry", extra="triton", needed="psutil")
    result = CliRunner().invoke(app, ["registry", "publish", "mini", "--store", "x"])
    assert result.exit_code == 1
    assert "aquatint registry needs more packages (psutil is missing)" in result.stderr


def test_a_group_with_its_packages() -> None:
    app = typer.Typer()
    app.command("other")(lambda: None)
    extras.add_commands(app, "aquatint.cli.registry", name="registry", extra="triton", needed="psutil")
    assert CliRunner().invoke(app, ["registry", "list", "--help"]).exit_code == 0
