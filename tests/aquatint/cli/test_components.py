"""What components offer the command line."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from aquatint.cli import components
from aquatint.contract.errors import DependencyMissing
from tests.conftest import ROOT


def test_the_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUATINT_LLM_PORT", "8123")
    monkeypatch.setenv("AQUATINT_LLM_HOME", str(tmp_path))
    service = components.service("llm")
    assert (service.port.number, service.port.variable) == (8123, "AQUATINT_LLM_PORT")
    command = service.program(torch="torch==1", pip_options=" --index-url x").command
    assert command[1:] == ["llm", "serve", "--install", "--torch", "torch==1", "--pip-options", " --index-url x"]
    finding = service.examine()
    assert (finding.ok, finding.detail) == (False, f"not in {tmp_path}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    assert service.examine().ok


def test_an_export_depends_on_its_code_and_configurations() -> None:
    sources = {path.resolve() for path in components.exporter().sources()}
    assert ROOT / "export" / "aquatint_export" / "exporting.py" in sources
    assert {*(ROOT / "model_repository").rglob("config.pbtxt")} <= sources


def test_what_is_not_offered() -> None:
    with pytest.raises(DependencyMissing, match=r"no entry point painter of aquatint\.services"):
        components.service("painter")


@pytest.mark.parametrize("group", [components.COMMANDS, components.SERVICES, components.EXPORTERS])
def test_every_entry_point_can_be_loaded(group: str) -> None:
    points = entry_points(group=group)
    assert points
    for point in points:
        assert callable(point.load())
