"""Run programs under supervisor (supervisord.org), which restarts them when they die and stops them in order."""

from __future__ import annotations

import configparser
import contextlib
import shlex
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from supervisor.xmlrpc import SupervisorTransport

from aquatint.cli.run.logs import tail
from aquatint.cli.run.programs import Program
from aquatint.contract.errors import EngineUnavailable
from aquatint.server.process import end_with_parent

_STOP_GRACE_S = 40.0
_START_TIMEOUT_S = 20.0
_POLL_S = 0.1
# supervisor's own word for a program that it has given up on.
_FATAL = "FATAL"


class Supervisor:
    """supervisord and its programs. Use as a context manager; each program's output goes to ``logs/<name>.log``."""

    def __init__(self, programs: Sequence[Program], logs: Path) -> None:
        self._programs = programs
        self._logs = logs.absolute()
        self._scratch = tempfile.TemporaryDirectory(prefix="aquatint-run-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        config = self._folder / "supervisord.conf"
        with config.open("w") as file:
            self._config().write(file)
        command = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(config)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A process group of its own, so that Ctrl-C reaches only us and we can stop it in order.
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - one prctl call, which takes no lock
        )
        self._wait_until_started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._scratch.cleanup()

    def is_running(self) -> bool:
        """Return whether supervisord itself is running."""
        return self._process is not None and self._process.poll() is None

    def given_up(self) -> set[str]:
        """Return the programs that supervisor no longer restarts. Raises ``EngineUnavailable`` without supervisord."""
        try:
            found = self._rpc().supervisor.getAllProcessInfo()
        except (OSError, xmlrpc.client.Error) as error:
            raise EngineUnavailable(f"supervisord does not answer; see {self._logs / 'supervisord.log'}") from error
        assert isinstance(found, list)
        return {str(info["name"]) for info in found if info["statename"] == _FATAL}

    def last_words(self, name: str, lines: int = 10) -> str:
        """Return the end of the log of the program ``name``."""
        return tail(self._logs / f"{name}.log", lines)

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name)

    @property
    def _socket(self) -> Path:
        return self._folder / "supervisor.sock"

    def _rpc(self) -> xmlrpc.client.ServerProxy:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self.is_running() and time.monotonic() < deadline:
            with contextlib.suppress(EngineUnavailable):
                self.given_up()
                return
            time.sleep(_POLL_S)
        raise EngineUnavailable(f"supervisord did not start; see {self._logs / 'supervisord.log'}")

    def _config(self) -> configparser.RawConfigParser:
        config = configparser.RawConfigParser()
        config["supervisord"] = {
            "nodaemon": "true",
            "silent": "true",
            "logfile": _literal(self._logs / "supervisord.log"),
            "pidfile": _literal(self._folder / "supervisord.pid"),
            "childlogdir": _literal(self._logs),
        }
        config["unix_http_server"] = {"file": _literal(self._socket), "chmod": "0700"}
        config["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        for program in self._programs:
            config[f"program:{program.name}"] = {
                "command": _literal(shlex.join(program.command)),
                "environment": ",".join(f'{key}="{_literal(value)}"' for key, value in program.environment.items()),
                "redirect_stderr": "true",
                "stdout_logfile": _literal(self._logs / f"{program.name}.log"),
                "stdout_logfile_backups": "1",
                "startretries": "2",
                "startsecs": str(program.starts_in_s),
                "stopwaitsecs": str(program.stops_in_s),
                "stopasgroup": "true",
                "killasgroup": "true",
            }
        return config


def _literal(value: object) -> str:
    """Escape ``value`` for supervisor's configuration, where a per cent sign begins a variable."""
    return str(value).replace("%", "%%")
