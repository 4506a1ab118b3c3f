"""The parity gate: every component against torch on fresh inputs, then whole images against diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aquatint.contract.errors import ModelRejected
from aquatint.contract.generation import Generation
from aquatint.contract.request import GenerationRequest, resolve
from aquatint.diffusion.pipeline import ComponentRunner, Pipeline
from aquatint_export.components import Component, random_inputs
from aquatint_export.families import Checkpoint

# ||out - ref|| / ||ref|| of one component against FP32 torch. FP32 kernels differ by rounding only (2e-6 measured on
# the mini checkpoint); FP16 has 11 bits of mantissa and the error grows through the layers,
# and BF16 has 8.
COMPONENT_BOUND = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 8e-2}
IMAGE_BOUND_DB = {"fp32": 50.0, "fp16": 25.0, "bf16": 18.0}
_SHAPES = (
    (1, {"sequence": 7, "latent_height": 4, "latent_width": 4}),
    (3, {"sequence": 16, "latent_height": 8, "latent_width": 6}),
)
_REQUESTS = (
    GenerationRequest(prompt="a flat emoji of a fox on a blue background", seed=0),
    GenerationRequest(prompt="two apples, noto style", seed=1234567),
)

# Inputs of a component, and what torch makes of them.
Reference = tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]
# Generates one image, UINT8 ``(height, width, 3)``.
Generator = Callable[[GenerationRequest], NDArray[np.uint8]]


@dataclass
class ParityReport:
    """What was measured and against which bounds; ``failures`` is empty when the gate is passed.

    ``engines`` is the report of TensorRT engines, where there was a GPU to run them.
    """

    dtype: str
    component_bound: float
    image_bound_db: float
    components: dict[str, float] = field(default_factory=dict)
    images_db: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    engines: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as the manifest has it."""
        return asdict(self)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Compute the peak signal-to-noise ratio of two UINT8 images in dB; 99 for identical ones."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(10.0 * np.log10(255.0**2 / error))


def relative_error(out: NDArray[np.float32], ref: NDArray[np.float32]) -> float:
    """Compute ``||out - ref|| / ||ref||``; infinite when ``out`` holds anything that is not finite."""
    if not np.isfinite(out).all():
        return float("inf")
    return float(np.linalg.norm(out - ref) / max(float(np.linalg.norm(ref)), 1e-12))


@torch.no_grad()
def reference_outputs(
    component: Component, seed: int, shapes: Sequence[tuple[int, dict[str, int]]] = _SHAPES
) -> list[Reference]:
    """Make random inputs, and what torch makes of them, by default at shapes the exporter never traced."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for batch, axes in shapes:
        inputs = random_inputs(component, batch, axes, generator=generator)
        outputs = component.module(**inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs.append(({k: v.numpy() for k, v in inputs.items()}, [o.numpy() for o in outputs]))
    return pairs


def check_component(
    report: ParityReport,
    component: Component,
    references: list[Reference],
    runner: ComponentRunner,
) -> None:
    """Compare one exported component with torch's outputs and note the worst relative error."""
    worst = 0.0
    for inputs, expected in references:
        outputs = runner(component.name, inputs)
        for spec, reference in zip(component.outputs, expected):
            worst = max(worst, relative_error(outputs[spec.name], reference))
    report.components[component.name] = worst
    if not worst <= report.component_bound:
        report.failures.append(f"{component.name}: relative error {worst:.2e} is over {report.component_bound:.0e}")


def check_images(report: ParityReport, expected: list[NDArray[np.uint8]], generate: Generator) -> None:
    """Compare whole images with diffusers' at equal seeds and note the PSNR of each."""
    for request, reference in zip(_REQUESTS, expected, strict=True):
        decibels = psnr(generate(request), reference)
        report.images_db[f"{request.prompt} #{request.seed}"] = round(decibels, 2)
        if not decibels >= report.image_bound_db:
            report.failures.append(
                f"image {request.prompt!r}: {decibels:.1f} dB is under {report.image_bound_db:.0f} dB"
            )


def generator(pipeline: Pipeline) -> Generator:
    """Generate with a pipeline in this process."""

    def generate(request: GenerationRequest) -> NDArray[np.uint8]:
        *_, result = pipeline.run(resolve(request, pipeline.served))
        assert isinstance(result, Generation)
        return result.images[0].pixels

    return generate


def reference_images(checkpoint: Checkpoint, pipeline: Pipeline) -> list[NDArray[np.uint8]]:
    """Generate the gate's images by diffusers itself in FP32."""
    return [checkpoint.generate(resolve(request, pipeline.served), pipeline) for request in _REQUESTS]


def new_report(dtype: str) -> ParityReport:
    """Make an empty report with the bounds of ``dtype``."""
    return ParityReport(dtype, COMPONENT_BOUND[dtype], IMAGE_BOUND_DB[dtype])


def conclude(report: ParityReport) -> ParityReport:
    """Return the report if nothing failed. Raises ``ModelRejected`` listing every failure."""
    if report.failures:
        raise ModelRejected("parity failed, nothing is published: " + "; ".join(report.failures))
    return report
