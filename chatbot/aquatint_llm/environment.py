"""vLLM's virtual environment: its pinned versions conflict with ours, so nothing is shared."""

from __future__ import annotations

import shlex
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from aquatint.contract.errors import EngineUnavailable

_UV = "uv==0.13.9"
# Exact versions with hashes, without torch and its companions, whose GPU builds would be downloaded.
_LOCK = Path(__file__).with_name("requirements.txt")
_LOCKED = ("--no-deps", "--require-hashes", "-r")
_CONVERT = Path(__file__).with_name("convert.py")


def python_of(home: Path) -> Path:
    """Return the Python of the environment in ``home``."""
    return home / "bin" / "python"


def model_folder(home: Path) -> Path:
    """Return the folder of the model in the environment."""
    return home / "model"


def is_installed(home: Path) -> bool:
    """Return whether ``install`` finished here: the model is the last thing it writes."""
    return (model_folder(home) / "config.json").is_file()


def install(home: Path, torch: str, *, pip_options: Sequence[str], say: Callable[[str], None]) -> None:
    """Make the environment in ``home``: vLLM for CPUs and the model, 2.5 GB. Does nothing if it is complete.

    Args:
        torch: The requirement that pip installs, such as ``torch==2.13.0``.
        pip_options: Options for that, such as ``--index-url …`` to choose a CPU build.
        say: Called with the name of each step as it begins.

    Raises:
        EngineUnavailable: A step failed; its output was printed to standard error.
    """
    if is_installed(home):
        return
    python = str(python_of(home))
    say("virtual environment")
    venv.create(home, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, _UV])
    say("vLLM and the language model")
    _run([str(home / "bin" / "uv"), "pip", "install", "--quiet", "--python", python, *_LOCKED, str(_LOCK)])
    say("torch")
    _run([*pip, *pip_options, torch])
    say("weights")
    _run([python, str(_CONVERT), str(model_folder(home))])


def _run(command: list[str]) -> str:
    """Run a command to its end and return its standard output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise EngineUnavailable(f"{shlex.join(command[1:4])} … failed with status {done.returncode}")
    return done.stdout
