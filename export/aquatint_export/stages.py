"""The stages that engines of exported components share: load, trace, verify; each then builds in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aquatint.diffusion.pipeline import Pipeline
from aquatint.diffusion.served_model import ServedModel
from aquatint.repository import manifest as manifests
from aquatint.repository.manifest import Manifest
from aquatint_export import families, parity, repository, serving_gate, tracing
from aquatint_export.families import Checkpoint
from aquatint_export.options import ExportOptions
from aquatint_export.parity import ParityReport
from aquatint_export.runner import OnnxRunner
from aquatint_export.tracing import Traced

# What the manifest says of a component beside its inputs and outputs.
Description = dict[str, dict[str, Any]]
_TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class Exported:
    """A checkpoint whose components are ONNX files in ``folder``, the repository to be."""

    checkpoint: Checkpoint
    options: ExportOptions
    served: ServedModel
    folder: Path
    traced: list[Traced]

    @property
    def version(self) -> Path:
        """The version folder of the text-to-image model."""
        return self.folder / self.served.name / repository.VERSION

    def write_model(self, traced: Traced, *, engine: str, on_gpu: bool) -> Path:
        """Write the Triton model of one component, run by ``engine``; return its version folder."""
        return repository.write_component(
            traced.component,
            self.served,
            self.folder,
            target=self.options.target,
            engine=engine,
            on_gpu=on_gpu,
        )


class ComponentEngine(ABC):
    """An engine that runs a model's components, each of them a model in Triton."""

    preference: int | None = None

    @abstractmethod
    def check(self, options: ExportOptions) -> str:
        """Return what will be used. Raises ``AquatintError`` if these options cannot be built here."""

    @abstractmethod
    def usual_options(self, name: str) -> tuple[ExportOptions, str]:
        """Return the options to serve a model with on this machine, and why. Raises ``AquatintError`` if it cannot."""

    @abstractmethod
    def build(self, exported: Exported, progress: Callable[[str], None]) -> Description:
        """Make the components' models from the verified files; return what the manifest is to say of them."""

    def unverified_dtype(self, options: ExportOptions) -> str | None:
        """Return the precision to verify the built models at, unless they are the traced files or cannot run here."""
        return None

    def export(self, source: str, options: ExportOptions, folder: Path, progress: Callable[[str], None]) -> Manifest:
        """Write the repository's models into ``folder`` and return its manifest.

        Raises ``ModelRejected`` if the checkpoint cannot be used or parity fails.
        """
        progress("load the checkpoint")
        checkpoint = families.load(source, options)
        exported = _trace(checkpoint, options, folder, progress)
        report, expected = _verify(exported, progress)
        built = self.build(exported, progress)
        dtype = self.unverified_dtype(options)
        if dtype is not None and expected:
            progress("parity gate through a server")
            report.engines = serving_gate.run(exported, expected, dtype)
        return Manifest(
            model=options.name,
            engine=options.engine,
            source=checkpoint.source,
            licence=checkpoint.licence,
            target=options.target,
            dtype=options.dtype,
            components={
                traced.component.name: {**traced.component.describe(), **built.get(traced.component.name, {})}
                for traced in exported.traced
            },
            parity=report.as_dict(),
            tools={tool: metadata.version(tool) for tool in _TOOLS},
            files=manifests.digest_tree(folder),
        )


def _trace(checkpoint: Checkpoint, options: ExportOptions, folder: Path, progress: Callable[[str], None]) -> Exported:
    """Write every component as an ONNX file, and the models that callers use."""
    progress("fit previews")
    served = checkpoint.served_model(options)
    traced = []
    for component in checkpoint.components():
        progress(f"export {component.name}")
        version = folder / served.triton_model(component.name) / repository.VERSION
        traced.append(tracing.trace(checkpoint, component, version, dtype=options.dtype))
    exported = Exported(checkpoint, options, served, folder, traced)
    repository.write_text_to_image(checkpoint, served, folder)
    return exported


def _verify(exported: Exported, progress: Callable[[str], None]) -> tuple[ParityReport, list[NDArray[np.uint8]]]:
    """Compare the files with torch, then whole images with diffusers'; return what was measured and its images.

    No images are made of a checkpoint that is too large to hold. Raises ``ModelRejected``.
    """
    report = parity.new_report(exported.options.dtype)
    for traced in exported.traced:
        progress(f"verify {traced.component.name}")
        runner = OnnxRunner({traced.component.name: traced.path})
        parity.check_component(report, traced.component, traced.references, runner)
    expected: list[NDArray[np.uint8]] = []
    if all(traced.component.is_in_memory for traced in exported.traced):
        progress("parity gate")
        runner = OnnxRunner({traced.component.name: traced.path for traced in exported.traced})
        pipeline = Pipeline(exported.served, exported.version, runner)
        expected = parity.reference_images(exported.checkpoint, pipeline)
        parity.check_images(report, expected, parity.generator(pipeline))
    return parity.conclude(report), expected
