"""Put another model repository into a running Triton without losing a request.

The new components are loaded beside the old ones under names of their own and drawn with through a front of their own;
only then do the fronts that callers use get a new version that calls them. Requests in flight end where they began:
Triton unloads a version when its last request is answered. If anything fails, the old version serves on.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tritonclient.http
from tritonclient.utils import InferenceServerException

from aquatint.client import connect
from aquatint.contract.errors import EngineUnavailable, ModelRejected
from aquatint.diffusion import served_model
from aquatint.registry import trial
from aquatint.repository import manifest as manifests
from aquatint.repository.manifest import Manifest

_log = logging.getLogger("aquatint.registry")

_CONFIG = "config.pbtxt"
_FRONT_SUFFIXES = ("", "_stream")
_LOAD_TIMEOUT_S = 900.0
_DRAIN_TIMEOUT_S = 660.0
_POLL_S = 0.2


@dataclass(frozen=True)
class LiveTriton:
    """A running server: the folder it serves, its addresses (``host:port``), and the key to its model control."""

    repository: Path
    http_url: str
    grpc_url: str
    admin_key: str | None = None


def swap(live: LiveTriton, source: Path, version: int, prompts: list[str]) -> None:
    """Make ``live`` serve the model repository ``source`` as ``version``; draws ``prompts`` with it before and after.

    Raises ``ModelRejected`` for a repository that is damaged, of another model, or whose pictures are blank, and
    ``EngineUnavailable`` if the server cannot load it. The old version then serves on, and nothing of the new is left.
    """
    incoming = manifests.verify(source)
    serving = manifests.read(live.repository)
    if incoming.model != serving.model:
        raise ModelRejected(f"the repository is of {incoming.model}, the server serves {serving.model}")
    if not incoming.components:
        raise ModelRejected("a repository of the diffusers engine cannot be swapped in; restart the server with it")
    _Swap(live, serving, incoming, version, prompts).run(source)


class _Swap:
    def __init__(
        self, live: LiveTriton, serving: Manifest, incoming: Manifest, version: int, prompts: list[str]
    ) -> None:
        self._live, self._incoming, self._version = live, incoming, version
        self._model = incoming.model
        self._own = f"{self._model}-v{version}"
        self._prompts = prompts
        # Of the fronts already switched, to be put back if the rest fails.
        self._configs: dict[str, str] = {}
        self._headers = {"admin-key": live.admin_key} if live.admin_key else {}
        front = _newest(self._front_folder(""))
        self._old_version = int(front.name)
        self._retired = {served_model.read(front).triton_model(name) for name in serving.components}

    def run(self, source: Path) -> None:
        """Load, try, switch, clean up."""
        components = served_model.read(_newest(source / self._model)).model_copy(update={"components": self._own})
        added = [*map(components.triton_model, self._incoming.components), self._own]
        if self._retired & set(added):
            raise ModelRejected(f"version {self._version} is being served already")
        number = self._old_version + 1
        with tempfile.TemporaryDirectory(dir=self._live.repository.parent, prefix=".swap-") as scratch:
            staging = Path(scratch) / "repository"
            self._lay_out(source, staging, number)
            try:
                for model in added:
                    self._move_in(staging / model, self._live.repository / model)
                    self._load(model)
                    _log.info("%s is loaded", model)
                self._draw(self._own)
                self._switch(staging, number)
            except BaseException:
                self._take_back(added, number)
                raise
            self._write_manifest()
        self._retire()

    def _lay_out(self, source: Path, staging: Path, number: int) -> None:
        """The repository under its new names: ``<own>_<component>``, a trial front, and the fronts' next version."""
        front = _newest(source / self._model)
        served = served_model.read(front)
        for component in self._incoming.components:
            origin = source / served.triton_model(component)
            target = staging / served.model_copy(update={"components": self._own}).triton_model(component)
            shutil.copytree(origin, target)
            (target / _CONFIG).write_text(_renamed((origin / _CONFIG).read_text(), target.name))
        for suffix in _FRONT_SUFFIXES:
            origin = source / f"{self._model}{suffix}"
            target = staging / f"{self._model}{suffix}" / str(number)
            shutil.copytree(_newest(origin), target)
            served = served_model.read(target).model_copy(update={"components": self._own})
            (target / served_model.FILE_NAME).write_text(served.model_dump_json(indent=1) + "\n")
            shutil.copy(origin / _CONFIG, target.parent / _CONFIG)
        own = staging / self._own
        shutil.copytree(staging / self._model / str(number), own / "1")
        (own / _CONFIG).write_text(_renamed((source / self._model / _CONFIG).read_text(), self._own))

    def _move_in(self, source: Path, target: Path) -> None:
        # What an earlier, killed try left.
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)

    def _switch(self, staging: Path, number: int) -> None:
        for suffix in _FRONT_SUFFIXES:
            model = f"{self._model}{suffix}"
            folder = self._front_folder(suffix)
            self._configs[suffix] = (folder / _CONFIG).read_text()
            self._move_in(staging / model / str(number), folder / str(number))
            (staging / model / _CONFIG).replace(folder / _CONFIG)
            self._load(model)
            with self._client() as client:
                if not client.is_model_ready(model, str(number), headers=self._headers):
                    raise EngineUnavailable(f"version {number} of {model} did not become ready")
            _log.info("%s is served by version %d", model, self._version)
        self._draw(self._model)

    def _take_back(self, added: list[str], number: int) -> None:
        """Leave the server as it was; what fails here must not hide why the swap failed."""
        for suffix, config in self._configs.items():
            folder = self._front_folder(suffix)
            shutil.rmtree(folder / str(number), ignore_errors=True)
            (folder / _CONFIG).write_text(config)
            with contextlib.suppress(EngineUnavailable):
                self._load(folder.name)
        for model in reversed(added):
            if (self._live.repository / model).is_dir():
                with contextlib.suppress(EngineUnavailable):
                    self._unload(model)
                shutil.rmtree(self._live.repository / model, ignore_errors=True)

    def _write_manifest(self) -> None:
        """From here on a restarted server serves the new version."""
        repository = self._live.repository
        digests = manifests.digest_tree(repository)
        files = {name: digest for name, digest in digests.items() if not self._leaves(Path(name))}
        text = self._incoming.model_copy(update={"files": files}).model_dump_json(indent=1) + "\n"
        partial = repository.parent / f".{repository.name}-{manifests.FILE_NAME}"
        partial.write_text(text)
        partial.replace(repository / manifests.FILE_NAME)

    def _leaves(self, file: Path) -> bool:
        """Whether a file of the repository is of the old version or of the trial."""
        old_fronts = {(f"{self._model}{suffix}", str(self._old_version)) for suffix in _FRONT_SUFFIXES}
        return file.parts[0] in {*self._retired, self._own} or file.parts[:2] in old_fronts

    def _retire(self) -> None:
        """Unload the trial front at once, the old components when nobody calls them any more; then their files."""
        self._remove(self._own)
        for suffix in _FRONT_SUFFIXES:
            self._wait_until_unloaded(f"{self._model}{suffix}", self._old_version)
            shutil.rmtree(self._front_folder(suffix) / str(self._old_version))
        for model in sorted(self._retired):
            self._remove(model)
        _log.info("version %d is served; nothing is left of what was there", self._version)

    def _remove(self, model: str) -> None:
        self._unload(model)
        shutil.rmtree(self._live.repository / model)

    def _draw(self, model: str) -> None:
        with connect(url=self._live.grpc_url, protocol="grpc", model=model) as client:
            trial.draw(client, self._prompts, self._version)

    def _front_folder(self, suffix: str) -> Path:
        return self._live.repository / f"{self._model}{suffix}"

    def _client(self) -> contextlib.closing[tritonclient.http.InferenceServerClient]:
        return contextlib.closing(
            tritonclient.http.InferenceServerClient(
                self._live.http_url, connection_timeout=5.0, network_timeout=_LOAD_TIMEOUT_S
            )
        )

    def _load(self, model: str) -> None:
        with self._controlling(f"{model} could not be loaded"), self._client() as client:
            client.load_model(model, headers=self._headers)

    def _unload(self, model: str) -> None:
        with self._controlling(f"{model} could not be unloaded"), self._client() as client:
            client.unload_model(model, headers=self._headers)

    def _wait_until_unloaded(self, model: str, version: int) -> None:
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while time.monotonic() < deadline:
            with self._controlling("the repository index could not be read"), self._client() as client:
                index = client.get_model_repository_index(headers=self._headers)
            states = [each for each in index if each["name"] == model and each.get("version") == str(version)]
            if all(each.get("state") == "UNAVAILABLE" and each.get("reason") == "unloaded" for each in states):
                return
            time.sleep(_POLL_S)
        # Triton 2.51 may never let go of a stream that its client cancelled at the wrong moment; every real request is
        # past its deadline by now.
        _log.warning("%s version %d is still not unloaded after %g s", model, version, _DRAIN_TIMEOUT_S)

    @contextlib.contextmanager
    def _controlling(self, complaint: str) -> Iterator[None]:
        try:
            yield
        except (OSError, InferenceServerException) as error:
            detail = error.message() if isinstance(error, InferenceServerException) else type(error).__name__
            raise EngineUnavailable(f"{complaint}: {detail}") from error


def _newest(front: Path) -> Path:
    """The folder of a model's highest version."""
    return max((path for path in front.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _renamed(config: str, name: str) -> str:
    return re.sub(r'^name: ".*"$', f'name: "{name}"', config, count=1, flags=re.MULTILINE)
