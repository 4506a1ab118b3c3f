"""Bring your own library: a model repository that draws with diffusers itself, for what cannot be exported."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

from huggingface_hub import snapshot_download

from aquatint.contract.errors import ModelRejected
from aquatint.contract.model_info import ModelInfo
from aquatint.repository import checkpoint_info
from aquatint.repository import manifest as manifests
from aquatint_export import triton_config
from aquatint_export.publish import check_replaceable, publish

_TOOLS = ("torch", "diffusers", "transformers")
_CHECKPOINT = "checkpoint"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
VERSION = "1"


def publish_pipeline(
    source: str, out: Path, name: str, progress: Callable[[str], None] = lambda stage: None
) -> manifests.Manifest:
    """Publish a repository whose decoupled model loads ``source`` with diffusers, and whose unary model relays to it.

    A folder is copied into the repository; a hub id is loaded by the server. Raises ``ModelRejected``.
    """
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(source)
    local = folder.is_dir()
    if not local:
        progress("read the description")
        folder = Path(snapshot_download(source, allow_patterns=["*.json"]))
    info = checkpoint_info.model_info(folder, source, name)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        staging = Path(scratch) / "repository"
        _write_relay(staging / name, info)
        _write_stream(staging / f"{name}_stream", info, _CHECKPOINT if local else source)
        if local:
            progress("copy the checkpoint")
            copy_checkpoint(folder, staging / f"{name}_stream" / VERSION / _CHECKPOINT)
        manifest = manifests.Manifest(
            model=name,
            source=folder.name if local else source,
            licence=checkpoint_info.licence(folder),
            target="diffusers",
            dtype="chosen by the server",
            components={},
            parity={},
            tools={tool: metadata.version(tool) for tool in _TOOLS},
            files=manifests.digest_tree(staging),
        )
        progress("publish")
        publish(manifest, staging, out, Path(scratch))
    return manifest


def _write_relay(folder: Path, info: ModelInfo) -> None:
    source = resources.files("aquatint_model_repository") / "text_to_image_relay"
    folder.mkdir(parents=True)
    config = triton_config.text_to_image_config((source / "config.pbtxt").read_text(), info, folder.name)
    (folder / "config.pbtxt").write_text(config)
    _write_version(folder, info)


def _write_stream(folder: Path, info: ModelInfo, checkpoint: str) -> None:
    source = resources.files("aquatint_model_repository") / "text_to_image_stream"
    folder.mkdir(parents=True)
    config = triton_config.text_to_image_config((source / "config.pbtxt").read_text(), info, folder.name)
    (folder / "config.pbtxt").write_text(triton_config.diffusers_config(config, checkpoint))
    _write_version(folder, info)


def _write_version(folder: Path, info: ModelInfo) -> None:
    """Triton wants a version folder; a file in it lets object stores keep it."""
    (folder / VERSION).mkdir()
    (folder / VERSION / "model_info.json").write_text(info.model_dump_json(indent=1) + "\n")


def copy_checkpoint(folder: Path, to: Path) -> None:
    """Everything but pickles and hidden files; hard links where the file system allows, for weights are large.

    Raises ``ModelRejected`` if there are no safetensors.
    """

    def link(source: str, target: str) -> None:
        try:
            os.link(os.path.realpath(source), target)
        except OSError:
            shutil.copy2(source, target)

    if not any(folder.rglob("*.safetensors")):
        raise ModelRejected("this checkpoint has no safetensors; pickled weights are not read")
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*_PICKLES, ".*"), copy_function=link)
