"""Download checkpoints from a model hub into its cache, but never pickled weights."""

from __future__ import annotations

from pathlib import Path

from aquatint.contract.errors import HubUnavailable

# Unpickling runs any code that a file contains.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def fetch(source: str, *, only: list[str] | None = None) -> Path:
    """Return a local folder as it is, or download a hub id (token from ``HF_TOKEN``), ``only`` some patterns.

    Raises ``HubUnavailable``.
    """
    if Path(source).is_dir():
        return Path(source)
    # Imported here, because clients install the core without this package.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(source, allow_patterns=only, ignore_patterns=list(PICKLES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise HubUnavailable(f"{source!r} is neither a folder nor a model the hub gives us") from error
