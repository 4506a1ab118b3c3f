"""Make a running Triton serve another model repository without losing a request.

The new components are loaded beside the old ones, under names of their own, and tried by a text-to-image model of
their own. Only then do the text-to-image models that callers use get a new version, which calls the new components.
Requests in flight stay with the version they began with: Triton unloads it once its last request is answered. If
anything fails, the old version stays in service.
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
from aquatint.registry.trial import try_prompts
from aquatint.repository import manifest as manifests
from aquatint.repository.manifest import Manifest

_log = logging.getLogger("aquatint.registry")

_CONFIG = "config.pbtxt"
# Of the two text-to-image models that callers use, unary and streamed.
_SUFFIXES = ("", "_stream")
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


def swap(live: LiveTriton, source: Path, *, version: int, prompts: list[str]) -> None:
    """Make ``live`` serve the model repository ``source`` as ``version``; try ``prompts`` before and after the switch.

    Raises ``ModelRejected`` for a repository that is damaged, is of another model, or generates blank images, and
    ``EngineUnavailable`` if the server cannot load it. The old version then stays in service, and the new one is
    removed.
    """
    incoming = manifests.verify(source)
    serving = manifests.read(live.repository)
    if incoming.model != serving.model:
        raise ModelRejected(f"the repository holds {incoming.model}, but the server serves {serving.model}")
    if not incoming.components:
        raise ModelRejected("a repository for the diffusers engine cannot be swapped in; restart the server with it")
    _Swap(live, serving, incoming, version=version, prompts=prompts).run(source)


class _Swap:
    def __init__(
        self, live: LiveTriton, serving: Manifest, incoming: Manifest, *, version: int, prompts: list[str]
    ) -> None:
        self._live, self._incoming, self._version = live, incoming, version
        self._model = incoming.model
        self._own = f"{self._model}-v{version}"
        self._prompts = prompts
        # Of the models already switched, by their suffix, to be restored if the rest fails.
        self._configs: dict[str, str] = {}
        self._headers = {"admin-key": live.admin_key} if live.admin_key else {}
        newest = _newest(self._folder(""))
        self._old_version = int(newest.name)
        self._retired = {served_model.read(newest).triton_model(name) for name in serving.components}

    def run(self, source: Path) -> None:
        """Load, try, switch, clean up."""
        components = served_model.read(_newest(source / self._model)).model_copy(update={"components": self._own})
        added = [*map(components.triton_model, self._incoming.components), self._own]
        if self._retired & set(added):
            raise ModelRejected(f"version {self._version} is already served")
        number = self._old_version + 1
        with tempfile.TemporaryDirectory(dir=self._live.repository.parent, prefix=".swap-") as scratch:
            staging = Path(scratch) / "repository"
            self._lay_out(source, staging, number)
            try:
                for model in added:
                    self._move_in(staging / model, self._live.repository / model)
                    self._load(model)
                    _log.info("%s is loaded", model)
                self._try_prompts(self._own)
                self._switch(staging, number)
            except BaseException:
                self._undo(added, number)
                raise
            self._write_manifest()
        self._retire()

    def _lay_out(self, source: Path, staging: Path, number: int) -> None:
        """Copy the repository under its new names: ``<own>_<component>``, and the text-to-image models' next version.

        A further text-to-image model, ``<own>``, is for the trial.
        """
        served = served_model.read(_newest(source / self._model))
        for component in self._incoming.components:
            origin = source / served.triton_model(component)
            target = staging / served.model_copy(update={"components": self._own}).triton_model(component)
            shutil.copytree(origin, target)
            (target / _CONFIG).write_text(_renamed((origin / _CONFIG).read_text(), target.name))
        for suffix in _SUFFIXES:
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
        # An attempt that was killed may have left it.
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)

    def _switch(self, staging: Path, number: int) -> None:
        for suffix in _SUFFIXES:
            model = f"{self._model}{suffix}"
            folder = self._folder(suffix)
            self._configs[suffix] = (folder / _CONFIG).read_text()
            self._move_in(staging / model / str(number), folder / str(number))
            (staging / model / _CONFIG).replace(folder / _CONFIG)
            self._load(model)
            with self._client() as client:
                if not client.is_model_ready(model, str(number), headers=self._headers):
                    raise EngineUnavailable(f"version {number} of {model} did not become ready")
            _log.info("%s is served by version %d", model, self._version)
        self._try_prompts(self._model)

    def _undo(self, added: list[str], number: int) -> None:
        """Restore the server; failures here must not hide why the swap failed."""
        for suffix, config in self._configs.items():
            folder = self._folder(suffix)
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
        """Make the new version the one that a restarted server serves."""
        repository = self._live.repository
        digests = manifests.digest_tree(repository)
        files = {name: digest for name, digest in digests.items() if not self._is_retired(Path(name))}
        text = self._incoming.model_copy(update={"files": files}).model_dump_json(indent=1) + "\n"
        partial = repository.parent / f".{repository.name}-{manifests.FILE_NAME}"
        partial.write_text(text)
        partial.replace(repository / manifests.FILE_NAME)

    def _is_retired(self, file: Path) -> bool:
        """Return whether a file of the repository belongs to the old version or to the trial."""
        old_versions = {(f"{self._model}{suffix}", str(self._old_version)) for suffix in _SUFFIXES}
        return file.parts[0] in {*self._retired, self._own} or file.parts[:2] in old_versions

    def _retire(self) -> None:
        """Unload the trial model at once, and the old components once nothing calls them; delete their files."""
        self._remove(self._own)
        for suffix in _SUFFIXES:
            self._wait_until_unloaded(f"{self._model}{suffix}", self._old_version)
            shutil.rmtree(self._folder(suffix) / str(self._old_version))
        for model in sorted(self._retired):
            self._remove(model)
        _log.info("version %d is served; the one before it is removed", self._version)

    def _remove(self, model: str) -> None:
        self._unload(model)
        shutil.rmtree(self._live.repository / model)

    def _try_prompts(self, model: str) -> None:
        with connect(url=self._live.grpc_url, protocol="grpc", model=model) as client:
            try_prompts(client, self._prompts, version=self._version)

    def _folder(self, suffix: str) -> Path:
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
        # Triton 2.51 may never release a stream that its client cancelled at the wrong moment; every real request is
        # past its deadline by now.
        _log.warning("%s version %d is still not unloaded after %g s", model, version, _DRAIN_TIMEOUT_S)

    @contextlib.contextmanager
    def _controlling(self, complaint: str) -> Iterator[None]:
        try:
            yield
        except (OSError, InferenceServerException) as error:
            detail = error.message() if isinstance(error, InferenceServerException) else type(error).__name__
            raise EngineUnavailable(f"{complaint}: {detail}") from error


def _newest(model: Path) -> Path:
    """Return the folder of a model's highest version."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _renamed(config: str, name: str) -> str:
    return re.sub(r'^name: ".*"$', f'name: "{name}"', config, count=1, flags=re.MULTILINE)
