"""How the embedded language model is installed and started, without doing either; ``e2e`` does both."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest
from aquatint_llm import EMBEDDED_MODEL, LlmSettings, command, environment, install, is_installed
from typer.testing import CliRunner

from aquatint.cli.app import app
from aquatint.contract.errors import EngineUnavailable


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUATINT_LLM_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["llm", "serve"])
    assert result.exit_code == 1
    assert "aquatint llm install" in result.output


def test_command(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    line, variables = command(LlmSettings(home=tmp_path, port=8123, threads=2))
    assert line[0] == str(tmp_path / "bin" / "python")
    assert line[line.index("--served-model-name") + 1] == EMBEDDED_MODEL
    assert line[line.index("--port") + 1] == "8123"
    assert Path(line[line.index("--chat-template") + 1]).is_file()
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["HF_HUB_OFFLINE"] == "1"


def test_a_failed_installation_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model comes last, so nothing half made counts as installed."""
    monkeypatch.setattr(venv, "create", lambda home, with_pip: (home / "bin").mkdir(parents=True))
    monkeypatch.setattr(environment, "python_of", lambda _: Path(sys.executable))
    really = environment._run

    def only_torch(command: list[str]) -> str:
        return really(command) if "no-such-distribution-at-all==1" in command else ""

    monkeypatch.setattr(environment, "_run", only_torch)
    steps: list[str] = []
    with pytest.raises(EngineUnavailable, match="pip install"):
        install(tmp_path / "llm", "no-such-distribution-at-all==1", pip_options=["--no-index"], say=steps.append)
    assert steps == ["virtual environment", "vLLM and the language model", "torch"]
    assert not is_installed(tmp_path / "llm")
