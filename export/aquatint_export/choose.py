"""A checkpoint to a model repository for the best engine that works here: TensorRT, then ONNX, then diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from aquatint.contract.errors import AquatintError, EngineUnavailable, ModelRejected
from aquatint.repository import manifest as manifests
from aquatint_export.byol import publish_pipeline
from aquatint_export.repository import export_checkpoint
from aquatint_export.tensorrt_build import EngineOptions, open_builder

ENGINES = ("tensorrt", "onnx", "diffusers")


def repositories(
    source: str, name: str, folder: Path, engine: str, progress: Callable[[str], None]
) -> Iterator[tuple[str, Path | None, str]]:
    """Candidates, best first: the engine, its repository or ``None`` where there can be none, and why.

    ``engine`` is one of ``ENGINES`` or ``auto`` for all of them. Repositories are kept under ``folder`` and used again
    while the checkpoint does not change.
    """
    for candidate in ENGINES if engine == "auto" else (engine,):
        out = folder / f"{name}-{candidate}"
        try:
            why = _publish(source, name, out, candidate, progress)
        except AquatintError as error:
            yield candidate, None, str(error)
        else:
            yield candidate, out, why


def _publish(source: str, name: str, out: Path, engine: str, progress: Callable[[str], None]) -> str:
    """Make sure that ``out`` holds the repository; returns why this engine can be used."""
    on_gpu = torch.cuda.is_available()
    if engine == "tensorrt":
        if not on_gpu:
            raise EngineUnavailable("there is no NVIDIA GPU to run TensorRT engines")
        _, why = open_builder(EngineOptions())
        if not _is_current(source, out):
            options = EngineOptions()
            export_checkpoint(source, out, name, dtype="fp16", progress=progress, engine_options=options)
        return why
    if engine == "onnx":
        if not _is_current(source, out):
            export_checkpoint(source, out, name, progress=progress)
        return "exported to ONNX and past the parity gate"
    if not _is_current(source, out):
        publish_pipeline(source, out, name, progress)
    return "diffusers draws any pipeline, one request at a time"


def _is_current(source: str, out: Path) -> bool:
    """Whether ``out`` was made from this checkpoint as it is now; a hub id is taken not to change."""
    try:
        made = manifests.read(out)
    except ModelRejected:
        return False
    folder = Path(source)
    if not folder.is_dir():
        return made.source == source
    written = (out / manifests.FILE_NAME).stat().st_mtime
    changed = any(path.stat().st_mtime >= written for path in folder.rglob("*") if path.is_file())
    return made.source == folder.name and not changed
