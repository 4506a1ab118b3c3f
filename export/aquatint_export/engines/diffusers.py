"""Bring your own pipeline: diffusers itself, for what cannot be exported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from aquatint.repository import checkpoint_info, hub
from aquatint.repository import manifest as manifests
from aquatint.repository.manifest import Manifest
from aquatint_export import repository, triton_config
from aquatint_export.options import ExportOptions

_TOOLS = ("torch", "diffusers", "transformers")
_CHECKPOINT = "checkpoint"


class DiffusersEngine:
    """Runs the checkpoint whole. Nothing is traced, so there is nothing to verify."""

    preference = 2

    def check(self, options: ExportOptions) -> str:
        """Return what runs the pipeline."""
        return f"diffusers {metadata.version('diffusers')} runs the pipeline"

    def usual_options(self, name: str) -> tuple[ExportOptions, str]:
        """Return the options for ``name``."""
        return ExportOptions(name=name, engine="diffusers"), "diffusers runs any pipeline, one request at a time"

    def export(self, source: str, options: ExportOptions, folder: Path, progress: Callable[[str], None]) -> Manifest:
        """Write a decoupled model that loads ``source`` with diffusers, and a unary model that relays to it.

        A folder is copied into the repository; a hub id is loaded by the server. Raises ``ModelRejected`` or
        ``HubUnavailable``.
        """
        is_local = Path(source).is_dir()
        progress("read the description")
        described = hub.fetch(source, only=["*.json"])
        info = checkpoint_info.model_info(described, source, options.name)
        relay = triton_config.text_to_image_config(repository.template("text_to_image_relay"), info, options.name)
        repository.write_pipeline(folder / options.name, relay, info)
        name = f"{options.name}_stream"
        config = triton_config.text_to_image_config(repository.template("text_to_image_stream"), info, name)
        config = triton_config.diffusers_config(config, _CHECKPOINT if is_local else source)
        version = repository.write_pipeline(folder / name, config, info)
        if is_local:
            progress("copy the checkpoint")
            repository.copy_checkpoint(described, version / _CHECKPOINT)
        return Manifest(
            model=options.name,
            engine=options.engine,
            source=described.name if is_local else source,
            licence=checkpoint_info.licence(described),
            target="diffusers",
            dtype="chosen by the server",
            components={},
            parity={},
            tools={tool: metadata.version(tool) for tool in _TOOLS},
            files=manifests.digest_tree(folder),
        )


ENGINE = DiffusersEngine()
