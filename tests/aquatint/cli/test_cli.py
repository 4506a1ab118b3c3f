import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aquatint.cli import app as cli
from aquatint.cli import generate as generating
from aquatint.contract import errors
from aquatint.contract.image import read_parameters
from aquatint.testing import fake_client
from tests.conftest import CHECKPOINT


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "connect", lambda **_: fake_client(retries=0))


def test_generate_writes_images(runner: CliRunner, connected: None, tmp_path: Path) -> None:
    arguments = ["generate", "a fox", "--out", str(tmp_path / "sub" / "fox.png"), "--seed", "5", "-n", "2"]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "sub").iterdir())
    assert files == ["fox-1.png", "fox-2.png"]
    assert read_parameters((tmp_path / "sub" / "fox-2.png").read_bytes())["seed"] == 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--width", "7"], "width"), (["--steps", "0"], "num_inference_steps"), (["--guidance-scale", "nan"], "guidance")],
)
def test_bad_input_is_one_clear_line(
    runner: CliRunner, connected: None, tmp_path: Path, arguments: list[str], named: str
) -> None:
    result = runner.invoke(cli.app, ["generate", "x", "--out", str(tmp_path / "x.png"), *arguments])
    assert result.exit_code == 1
    assert "InvalidRequest" in result.stderr
    assert named in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_server_errors(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        generating, "connect", lambda **_: fake_client([errors.EngineUnavailable("no server")], retries=0)
    )
    result = runner.invoke(cli.app, ["generate", "x"])
    assert result.exit_code == 1
    assert "EngineUnavailable: no server" in result.stderr


def test_serve_refuses_what_is_no_repository(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["serve", str(tmp_path)])
    assert result.exit_code == 1
    assert "ModelRejected" in result.stderr


def test_export_refuses_what_is_no_checkpoint(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["export", str(tmp_path), "--out", str(tmp_path / "repository")])
    assert result.exit_code == 1
    assert "model_index.json" in result.stderr
    assert not (tmp_path / "repository").exists()


def test_doctor_finds_the_server(runner: CliRunner) -> None:
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "tritonserver" in result.output


def test_doctor_says_what_is_missing(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str, package: str | None = None) -> Any:
        return None

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    monkeypatch.setenv("PATH", "")
    result = runner.invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "missing" in result.output


@pytest.mark.parametrize(
    ("arguments", "command"),
    [(["export", str(CHECKPOINT), "--out"], "export"), (["serve", str(CHECKPOINT), "--cache"], "serve CHECKPOINT")],
    ids=["export", "serve"],
)
def test_an_export_without_torch_is_one_line(tmp_path: Path, arguments: list[str], command: str) -> None:
    code = "import sys; sys.modules['torch'] = None; from aquatint.cli.app import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AQUATINT_ADMIN_KEY": "key"},
    )
    assert done.returncode == 1
    missing = "(torch is missing): pip install 'aquatint[export]'"
    assert done.stderr.splitlines()[-1] == f"aquatint {command} needs more packages {missing}"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
