"""Checkpoints by address: a folder, ``s3://bucket/prefix``, or a repository of the hub."""

from __future__ import annotations

from pathlib import Path

from aquatint.contract.errors import ModelRejected
from aquatint.repository import hub
from aquatint.storage import open_objects

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def resolve(source: str, scratch: Path) -> Path:
    """Find the checkpoint's folder; a remote one is downloaded, from S3 into ``scratch``, from the hub into its cache.

    Raises ``HubUnavailable`` if there is nothing at ``source``, ``ModelRejected`` if it is no diffusers checkpoint of
    safetensors.
    """
    folder = Path(source)
    if source.startswith("s3://"):
        folder = scratch / "checkpoint"
        _download(source, folder)
    elif not folder.is_dir():
        folder = hub.fetch(source, only=_HUB_FILES)
    if not (folder / "model_index.json").is_file():
        raise ModelRejected(f"checkpoint: {source} has no model_index.json")
    return folder


def _download(source: str, folder: Path) -> None:
    store = open_objects(source)
    for info in store.list(""):
        path = folder / info.key
        if any(path.match(pattern) for pattern in hub.PICKLES):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelRejected(f"checkpoint: {info.key!r} points out of the prefix")
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(info.key, path)
