"""Checkpoints by address: a folder, ``s3://bucket/prefix``, or a repository of the hub."""

from __future__ import annotations

from pathlib import Path

from aquatint.contract.errors import BundleRejected, InvalidRequest, StoreUnavailable
from aquatint.storage import open_objects

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def resolve(source: str, scratch: Path) -> Path:
    """Find the checkpoint's folder; a remote one is downloaded, from S3 into ``scratch``, from the hub into its cache.

    Raises ``InvalidRequest`` if there is nothing at ``source``, ``BundleRejected`` if it is no diffusers checkpoint of
    safetensors.
    """
    folder = Path(source)
    if source.startswith("s3://"):
        folder = scratch / "checkpoint"
        _download(source, folder)
    elif not folder.is_dir():
        folder = _from_hub(source)
    if not (folder / "model_index.json").is_file():
        raise BundleRejected(f"checkpoint: {source} has no model_index.json")
    return folder


def _download(source: str, folder: Path) -> None:
    store = open_objects(source)
    for info in store.list(""):
        path = folder / info.key
        if path.suffix in _PICKLES:
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleRejected(f"checkpoint: {info.key!r} points out of the prefix")
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(info.key, path)


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only checkpoints of the hub need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_FILES))
    except HFValidationError:
        raise InvalidRequest(f"checkpoint: {source} is no folder, s3:// prefix or hub repository") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise StoreUnavailable(f"checkpoint: {source} is no folder, and the hub did not give it") from error
