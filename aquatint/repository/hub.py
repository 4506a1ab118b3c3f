"""Checkpoints of a model hub, downloaded into its cache. Pickled weights are never downloaded."""

from __future__ import annotations

from pathlib import Path

from aquatint.contract.errors import HubUnavailable

# Unpickling runs whatever code a file holds.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def fetch(source: str, *, only: list[str] | None = None) -> Path:
    """Return a local folder as it is, or download a hub id (token from ``HF_TOKEN``), ``only`` files like these.

    Raises ``HubUnavailable``.
    """
    if Path(source).is_dir():
        return Path(source)
    # Imported here, because clients install the core without it.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(source, allow_patterns=only, ignore_patterns=list(PICKLES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise HubUnavailable(f"{source!r} is neither a folder nor a model the hub gives us") from error
