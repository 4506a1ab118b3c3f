"""Run one tritonserver process: start it, wait until it is ready, stream its log, probe, repair and stop it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil
import tritonclient.http
from tritonclient.utils import InferenceServerException

from aquatint.contract.errors import AquatintError, EngineUnavailable, Overloaded
from aquatint.repository import manifest
from aquatint.server.locate import lay_out_backends, locate
from aquatint.settings import ServerSettings

_log = logging.getLogger("aquatint.server")

_RESTRICTED = "shared-memory,logging,trace,model-repository"
_SHARED_MEMORY = Path("/dev/shm")
_STOP_GRACE_S = 10.0
_POLL_S = 0.1
# Lines of Triton's log that report an error: glog's E prefix, or the last words of main().
_COMPLAINT = re.compile(r"E\d{4} |error: ", re.IGNORECASE)
_STUB = "triton_python_backend_stub"
_PR_SET_PDEATHSIG = 1
# An open keep-alive connection makes SIGTERM wait this long.
_EXIT_TIMEOUT_S = 3


class TritonServer:
    """A tritonserver on loopback serving one model repository. Use as a context manager.

    ``verify`` checks every file of the repository against its manifest before the start.
    """

    def __init__(
        self,
        repository: Path,
        settings: ServerSettings,
        log: Callable[[str], None] = lambda line: None,
        *,
        verify: bool = True,
    ) -> None:
        self.settings = _with_free_ports(settings)
        self._repository = repository
        self._write_log = log
        self._verify = verify
        self._admin_key = settings.admin_key or secrets.token_urlsafe(16)
        self._tail: deque[str] = deque(maxlen=30)
        self._complaints: deque[str] = deque(maxlen=10)
        self._process: subprocess.Popen[str] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._reader: threading.Thread | None = None
        self._memory_prefix = f"aquatint-{os.getpid()}-{secrets.token_hex(4)}"

    @property
    def grpc_url(self) -> str:
        """``host:port`` for gRPC clients."""
        return f"{self.settings.host}:{self.settings.grpc_port}"

    @property
    def http_url(self) -> str:
        """``host:port`` for HTTP clients."""
        return f"{self.settings.host}:{self.settings.http_port}"

    @property
    def metrics_url(self) -> str:
        """The URL of the Prometheus endpoint."""
        return f"http://{self.settings.host}:{self.settings.metrics_port}/metrics"

    @property
    def pid(self) -> int:
        """The server's process id. Raises ``EngineUnavailable`` when it is not running."""
        if self._process is None:
            raise EngineUnavailable("the server is not running")
        return self._process.pid

    @property
    def admin_headers(self) -> dict[str, str]:
        """The HTTP headers that open the restricted protocols."""
        return {"admin-key": self._admin_key}

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until every model is ready. The server ends no later than the thread that calls this.

        Raises ``ModelRejected`` for a damaged repository and ``EngineUnavailable`` with the server's last words.
        """
        self._complaints.clear()
        if self._verify:
            manifest.verify(self._repository)
        installation = locate(self.settings.tritonserver)
        _log.info("tritonserver %s (%s)", installation.binary, installation.why)
        self._scratch = tempfile.TemporaryDirectory(prefix="aquatint-triton-")
        backends = Path(self._scratch.name) / "backends"
        backends.mkdir()
        lay_out_backends(installation, backends)
        command = [str(installation.binary), *self._arguments(backends)]
        if cache := installation.cache_directory():
            command.append(f"--cache-directory={cache}")
        self._process = subprocess.Popen(
            command,
            env=installation.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A process group of its own, so that Ctrl-C reaches only us and we can stop it in order.
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - one prctl call, which takes no lock
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and its Python backends, and remove what an unclean end leaves in shared memory."""
        if self._process is not None:
            self._end_process(self._process)
            if self._reader is not None:
                self._reader.join(timeout=_STOP_GRACE_S)
                self._reader = None
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        for region in _SHARED_MEMORY.glob(f"{self._memory_prefix}*"):
            region.unlink(missing_ok=True)
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def is_running(self) -> bool:
        """Return whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Return whether the server says that it and all its models are ready."""
        try:
            with self._client() as client:
                return bool(client.is_server_ready(headers=self.admin_headers))
        except (OSError, InferenceServerException):
            return False

    def reload(self, model: str) -> None:
        """Unload and load one model: the only cure for a Python backend process that has died.

        Raises ``EngineUnavailable`` if model control is off or the model does not come back.
        """
        try:
            with self._client() as client:
                client.unload_model(model, headers=self.admin_headers)
                client.load_model(model, headers=self.admin_headers)
        except (OSError, InferenceServerException) as error:
            raise EngineUnavailable(f"{model} could not be reloaded") from error

    def watch(self, probe: Callable[[], None], stopping: threading.Event) -> None:
        """Probe the server until ``stopping`` is set, and repair what the probe finds broken.

        ``probe`` should generate something and raise ``AquatintError`` when it cannot. Raises ``EngineUnavailable``
        when the server has ended and does not start again.
        """
        while not stopping.wait(self.settings.probe_every_s):
            try:
                probe()
            except Overloaded:
                # A full queue is a sign of life.
                continue
            except AquatintError as error:
                _log.warning("the server failed its probe: %s", error)
                self.repair()

    def repair(self) -> list[str]:
        """Reload every model whose Python backend process is gone; return their names.

        Triton never restarts such a process and still calls its model ready. A text-to-image model killed amid its
        calls to other models can take the whole server down with it; the server is then started again.
        """
        if not self.is_running():
            _log.error("tritonserver ended unexpectedly and is started again: %s", self.last_words())
            self.stop()
            self.start()
            return self._models()
        alive = self._backend_processes()
        dead = [model for model in self._models() if model not in alive]
        for model in dead:
            _log.warning("the backend process of %s is gone; reloading the model", model)
            try:
                self.reload(model)
            except EngineUnavailable:
                _log.exception("%s is still not ready", model)
        return dead

    def last_words(self) -> str:
        """Return what the server said was wrong, or else the last lines of its log."""
        return "\n".join(self._complaints or self._tail)

    def _models(self) -> list[str]:
        return sorted(path.parent.name for path in self._repository.glob("*/config.pbtxt"))

    def _backend_processes(self) -> dict[str, int]:
        """Map each model name to the id of its living Python backend process."""
        found = {}
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                # The stub's second argument is <repository>/<model>/<version>/model.py. A child that has only just been
                # forked still has the server's own command line.
                command = child.cmdline()
                is_stub = len(command) > 1 and Path(command[0]).name == _STUB
                if is_stub and child.status() != psutil.STATUS_ZOMBIE:
                    found[Path(command[1]).parts[-3]] = child.pid
        return found

    def _arguments(self, backends: Path) -> list[str]:
        s = self.settings
        return [
            f"--model-repository={self._repository.resolve()}",
            f"--backend-directory={backends}",
            f"--http-address={s.host}",
            f"--http-port={s.http_port}",
            f"--grpc-address={s.host}",
            f"--grpc-port={s.grpc_port}",
            f"--metrics-address={s.host}",
            f"--metrics-port={s.metrics_port}",
            # Explicit control allows reloading a dead stub; the restricted protocols keep others from using it.
            "--model-control-mode=explicit",
            "--load-model=*",
            "--strict-readiness=true",
            "--exit-on-error=true",
            f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
            f"--http-restricted-api={self._restricted}:admin-key={self._admin_key}",
            f"--grpc-restricted-protocol={self._restricted}:admin-key={self._admin_key}",
            f"--backend-config=python,shm-region-prefix-name={self._memory_prefix}",
        ]

    @property
    def _restricted(self) -> str:
        if self.settings.model_control and self.settings.admin_key is None:
            return _RESTRICTED.replace(",model-repository", "")
        return _RESTRICTED

    def _client(self) -> contextlib.closing[tritonclient.http.InferenceServerClient]:
        timeout = self.settings.ready_timeout_s
        return contextlib.closing(
            tritonclient.http.InferenceServerClient(self.http_url, connection_timeout=5.0, network_timeout=timeout)
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.settings.ready_timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise EngineUnavailable(f"tritonserver did not start:\n{self.last_words()}")
            if self.is_ready():
                return
            time.sleep(_POLL_S)
        raise EngineUnavailable(
            f"tritonserver was not ready within {self.settings.ready_timeout_s:g} s:\n{self.last_words()}"
        )

    def _read_log(self, stream: IO[str]) -> None:
        for line in stream:
            self._tail.append(line.rstrip())
            if _COMPLAINT.match(line):
                self._complaints.append(line.rstrip())
            self._write_log(line.rstrip())

    def _end_process(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            _log.warning("tritonserver did not stop within %g s and is killed", _STOP_GRACE_S)
        # The Python backend stubs share the server's process group; none may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with_parent() -> None:
    """Make the kernel end the server when this process is killed outright (Linux prctl, PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _with_free_ports(settings: ServerSettings) -> ServerSettings:
    """Replace every port 0 with a free one."""
    names = ("http_port", "grpc_port", "metrics_port")
    with contextlib.ExitStack() as stack:
        chosen = {name: _free_port(settings.host, stack) for name in names if getattr(settings, name) == 0}
    return settings.model_copy(update=chosen)


def _free_port(host: str, stack: contextlib.ExitStack) -> int:
    # The sockets stay open until all ports are chosen, so that no two are the same.
    sock = stack.enter_context(socket.socket())
    sock.bind((host, 0))
    port: int = sock.getsockname()[1]
    return port
