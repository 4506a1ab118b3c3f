"""Set up what `make` needs, from the locks; print one line per stage and log the rest to build/logs.

    python3 deploy/bootstrap.py run|test|all

Uses only the standard library, since it runs before anything is installed, and knows nothing about what it installs.
A stage is skipped if it has already succeeded with the same commands and the same input files.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / "bin"
LOCKS = ROOT / "deploy" / "locks"
LOGS = ROOT / "build" / "logs"
NODE_TESTS = ROOT / "tests" / "mcp_server" / "node"

_OLDEST, _TOO_NEW = (3, 11), (3, 13)
_NEEDED_BYTES = {"run": 4 << 30, "test": 6 << 30, "all": 9 << 30}
_TAIL_LINES = 15
_AT_ONCE = 2
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class SetUpError(Exception):
    """Raised when the set-up cannot continue; the message says why and what to do."""


@dataclass(frozen=True)
class Stage:
    """Commands that run one after another once the stages named in ``after`` have ended.

    ``inputs`` are files whose change makes the stage run again; ``fresh`` stages check that themselves and always run.
    """

    name: str
    commands: Sequence[Sequence[str | Path]]
    after: Sequence[str] = ()
    inputs: Sequence[Path] = ()
    fresh: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name, as used in file names."""
        return self.name.lower().replace(" ", "-")

    def digest(self) -> str:
        """Hash the commands and the contents of the input files."""
        words = [[str(word) for word in command] for command in self.commands]
        contents = [path.read_text() if path.is_file() else None for path in self.inputs]
        return hashlib.sha256(json.dumps([words, contents, str(ROOT)]).encode()).hexdigest()


def check_machine(target: str) -> None:
    """Raise ``SetUpError`` on a machine where the set-up cannot succeed."""
    version = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info < _OLDEST:
        raise SetUpError(f"Python {version} is too old: 3.11 or 3.12 is needed, as in `make run PYTHON=python3.12`")
    if sys.version_info >= _TOO_NEW:
        raise SetUpError(
            f"Python {version} is too new for Triton's Python backend, which needs numpy 1.26: "
            "use 3.11 or 3.12, as in `make run PYTHON=python3.12`"
        )
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetUpError(
            f"the embedded server is built for Linux on x86-64, and this is {platform.system()} on "
            f"{platform.machine()}; clients run anywhere: pip install . and `aquatint generate --url HOST:PORT`"
        )
    if platform.libc_ver()[0] != "glibc":
        raise SetUpError("the embedded server needs glibc; distributions with musl, such as Alpine, have none")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetUpError(f"this Python has no venv module; on Debian and Ubuntu: apt install python{version}-venv")
    free, needed = shutil.disk_usage(ROOT).free, _NEEDED_BYTES[target]
    if free < needed and not (VENV / "stages").is_dir():
        raise SetUpError(f"{free / 2**30:.1f} GiB of disk are free here, and {needed >> 30} GiB are needed")


def stages(target: str, torch: str, torch_options: Sequence[str]) -> list[Stage]:
    """List what ``target`` needs, in an order that respects ``after``."""
    python = BIN / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    editable = [*_uv_install(python), "-e", ROOT, "-e", ROOT / "pipelines" / "models"]
    main, project = LOCKS / "main.txt", [ROOT / "pyproject.toml", ROOT / "pipelines" / "models" / "pyproject.toml"]
    needed = [
        Stage(
            "Python environment",
            [
                [sys.executable, "-m", "venv", "--clear", VENV],
                [*pip, "--no-deps", "--require-hashes", "-r", LOCKS / "uv.txt"],
            ],
            inputs=[LOCKS / "uv.txt"],
        ),
        Stage(
            "packages",
            [[*_uv_install(python), "--require-hashes", "-r", main], editable],
            after=["Python environment"],
            inputs=[main, *project],
        ),
        # By pip, whose configuration chooses between CPU and GPU builds; the lock already holds what torch needs.
        Stage("torch", [[*pip, *torch_options, torch]], after=["packages"]),
        Stage("chat page", [["make", "--silent", "page"]], after=["packages"], fresh=True),
    ]
    if target in {"test", "all"}:
        needed += _for_tests()
    if target == "all":
        install = [BIN / "aquatint", "llm", "install", "--torch", torch, "--pip-options", shlex.join(torch_options)]
        needed.append(Stage("language model", [install], after=["packages"], fresh=True))
    return needed


def _uv_install(python: Path) -> list[str | Path]:
    return [BIN / "uv", "pip", "install", "--quiet", "--no-deps", "--python", python]


def _for_tests() -> list[Stage]:
    locked = [*_uv_install(BIN / "python"), "--require-hashes", "-r"]
    bare, torchao, checkov = LOCKS / "bare.txt", LOCKS / "torchao.txt", LOCKS / "checkov.txt"
    environment_folder = VENV / "checkov"
    return [
        *_programs(),
        # The first package of this lock is built from source, with the wheel package that is also locked here.
        Stage("TensorRT and schemas", [[*locked, bare, "--no-build-isolation"]], after=["packages"], inputs=[bare]),
        Stage("torchao", [[*locked, torchao, "--target", VENV / "torchao"]], after=["packages"], inputs=[torchao]),
        Stage(
            "checkov",
            [
                [BIN / "uv", "venv", "--quiet", "--clear", "--python", sys.executable, environment_folder],
                [*_uv_install(environment_folder / "bin" / "python"), "--require-hashes", "-r", checkov],
            ],
            after=["packages"],
            inputs=[checkov],
        ),
        Stage(
            "perf_analyzer",
            [[BIN / "python", "-m", "aquatint_benchmarks.perf_analyzer", "--install", VENV / "perf_analyzer"]],
            after=["torch"],
        ),
        Stage(
            "MCP clients in Node",
            [["npm", "ci", "--prefix", NODE_TESTS, "--no-fund", "--no-audit", "--loglevel=error"]],
            after=["packages"],
            inputs=[NODE_TESTS / "package-lock.json"],
        ),
        Stage("model repository for tests", [["make", "--silent", "test-repository"]], after=["torch"], fresh=True),
    ]


def _programs() -> list[Stage]:
    """List what only the distribution has: a browser and Prometheus. Without root, tests say what they skip."""
    missing = [program for program in ("chromium", "prometheus") if shutil.which(program) is None]
    if not missing or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return []
    install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *missing]
    commands = [["apt-get", "update", "--quiet"], install]
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    return [Stage(" and ".join(missing), commands, fresh=True, environment=environment)]


class Board:
    """Shows running stages with a spinner on a terminal, and a line for each one that ended."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._began: dict[str, float] = {}
        self._lines = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> Board:
        if self._terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._terminal:
            self._thread.join()
            with self._lock:
                self._clear()

    def start(self, name: str) -> None:
        """Show that ``name`` is running."""
        with self._lock:
            self._began[name] = time.monotonic()

    def end(self, name: str, mark: str = "✓") -> None:
        """Print how ``name`` ended and how long it took."""
        with self._lock:
            took = time.monotonic() - self._began.pop(name)
            self._clear()
            print(f"{mark} {name:<28}{took:5.0f} s", flush=True)

    def _spin(self) -> None:
        frame = 0
        while not self._ended.wait(0.1):
            frame = (frame + 1) % len(_FRAMES)
            with self._lock:
                self._clear()
                now = time.monotonic()
                for name, began in self._began.items():
                    sys.stdout.write(f"{_FRAMES[frame]} {name:<28}{now - began:5.0f} s\n")
                self._lines = len(self._began)
                sys.stdout.flush()

    def _clear(self) -> None:
        if self._lines:
            sys.stdout.write(f"\x1b[{self._lines}A\x1b[J")
            self._lines = 0


class Runner:
    """Runs stages, two at a time, each with a log of its own."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, needed: Iterable[Stage]) -> None:
        """Run what is not done yet. Raises ``SetUpError`` with the end of the failed stage's log."""
        waiting = {stage.name: stage for stage in needed}
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                while waiting or running:
                    pending = {*waiting, *running.values()}
                    for stage in [each for each in waiting.values() if not pending.intersection(each.after)]:
                        running[pool.submit(self._stage, stage)] = waiting.pop(stage.name).name
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        del running[future]
                        future.result()
            except BaseException:
                self.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def stop(self) -> None:
        """Stop the running commands."""
        self._stopped = True
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)

    def _stage(self, stage: Stage) -> None:
        mark, digest = VENV / "stages" / stage.slug, stage.digest()
        if self._stopped or (not stage.fresh and mark.is_file() and mark.read_text() == digest):
            return
        log = LOGS / f"{stage.slug}.log"
        LOGS.mkdir(parents=True, exist_ok=True)
        self._board.start(stage.name)
        with log.open("wb") as file:
            for command in stage.commands:
                if self._execute(command, stage.environment, file.fileno()) != 0:
                    self._board.end(stage.name, "✗")
                    raise SetUpError(_failure(stage.name, log))
        self._board.end(stage.name)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest)

    def _execute(self, command: Sequence[str | Path], environment: dict[str, str], log: int) -> int:
        merged = {**os.environ, **_package_index(), **environment, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, env=merged, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self._running.add(process)
        try:
            return process.wait()
        finally:
            self._running.discard(process)


def _package_index() -> dict[str, str]:
    """Make uv use the index that is set for pip."""
    url = os.environ.get("PIP_INDEX_URL")
    return {"UV_DEFAULT_INDEX": url} if url and "UV_DEFAULT_INDEX" not in os.environ else {}


def _failure(name: str, log: Path) -> str:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    hint = "\nThe disk is full." if "No space left" in tail else ""
    return f"{name} failed; the end of {log.relative_to(ROOT)}:\n{tail}{hint}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up ``target`` and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(_NEEDED_BYTES))
    parser.add_argument("--torch", default="torch==2.13.0", help="the build of torch, as pip takes it")
    parser.add_argument("--torch-options", default="", help="pip's options for it, such as an index of CPU builds")
    chosen = parser.parse_args(arguments)
    try:
        check_machine(chosen.target)
        with Board() as board:
            Runner(board).run(stages(chosen.target, chosen.torch, shlex.split(chosen.torch_options)))
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
