"""Deploy a version to the embedded Triton, which is started for that if it is not running."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx

from aquatint.contract.errors import EngineUnavailable
from aquatint.registry.swap import LiveTriton, swap
from aquatint.registry.versions import Pointer, Registry, files_under
from aquatint.repository import manifest as manifests
from aquatint.server import TritonServer
from aquatint.settings import ServerSettings
from aquatint.storage.secret_file import read_or_create

_log = logging.getLogger("aquatint.registry")

# The folder of a version that Triton serves; the checkpoint and the report are beside it.
REPOSITORY = "repository"
_PROBE_TIMEOUT_S = 5.0


def admin_key(settings: ServerSettings) -> str:
    """Return the key to the embedded server's model control: as set, or created once and kept in a file."""
    if settings.admin_key is not None:
        return settings.admin_key
    try:
        return read_or_create(settings.admin_key_file).decode()
    except OSError as error:
        raise EngineUnavailable(f"the admin key's file cannot be used: {error.strerror}") from error


@contextlib.contextmanager
def embedded(repository: Path, settings: ServerSettings) -> Iterator[LiveTriton]:
    """Yield the server that runs at the settings' addresses and serves ``repository``, or start one for the block."""
    key = admin_key(settings)
    address = f"{settings.host}:{settings.http_port}"
    if settings.http_port and _is_up(address):
        yield LiveTriton(repository, address, f"{settings.host}:{settings.grpc_port}", key)
        return
    _log.info("no server is running at %s: starting one for this", address)
    with TritonServer(repository, settings.model_copy(update={"admin_key": key})) as server:
        yield LiveTriton(repository, server.http_url, server.grpc_url, key)


def deploy(registry: Registry, number: int, live: LiveTriton, *, prompts: list[str]) -> Pointer:
    """Fetch a version, swap it into the running server, and make it the one in use.

    What the server served before the first deployment is published too, so that it can be rolled back. Raises what
    ``Registry.fetch`` and ``swap`` raise; the server and the pointer are then unchanged.
    """
    with tempfile.TemporaryDirectory(dir=live.repository.parent, prefix=".deploy-") as scratch:
        _adopt(registry, live.repository)
        fetched = Path(scratch) / "fetched"
        registry.fetch(number, fetched)
        swap(live, fetched / REPOSITORY, version=number, prompts=prompts)
    return registry.promote(number)


def _adopt(registry: Registry, repository: Path) -> None:
    if registry.latest() is not None:
        return
    serving = manifests.verify(repository)
    adopted = registry.publish(files_under(repository, f"{REPOSITORY}/"), {"source": serving.source, "adopted": True})
    registry.promote(adopted.version)
    _log.info("what was served so far is now version %d of %s", adopted.version, registry.name)


def _is_up(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/v2/health/live", timeout=_PROBE_TIMEOUT_S).is_success
    except httpx.HTTPError:
        return False
