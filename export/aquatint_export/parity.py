"""The parity gate: every component against torch on fresh inputs, then whole pictures against diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aquatint.contract.errors import ModelRejected
from aquatint.contract.generation import Generation
from aquatint.contract.request import GenerationRequest, ResolvedRequest, resolve
from aquatint.diffusion.pipeline import ComponentRunner, Pipeline
from aquatint_export.checkpoint import Checkpoint
from aquatint_export.components import Component, random_inputs

# ||out - ref|| / ||ref|| of one component against FP32 torch. FP32 kernels differ by rounding only (2e-6 measured on
# the mini checkpoint); FP16 has 11 bits of mantissa and the error grows through the layers,
# and BF16 has 8.
COMPONENT_BOUND = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 8e-2}
PICTURE_BOUND_DB = {"fp32": 50.0, "fp16": 25.0, "bf16": 18.0}
_SHAPES = (
    (1, {"sequence": 7, "latent_height": 4, "latent_width": 4}),
    (3, {"sequence": 16, "latent_height": 8, "latent_width": 6}),
)
_PROMPTS = (("a flat emoji of a fox on a blue background", 0), ("two apples, noto style", 1234567))


@dataclass
class ParityReport:
    """What was measured and against which bounds; ``failures`` is empty when the gate is passed.

    ``engines`` is the report of TensorRT engines, where there was a GPU to run them.
    """

    dtype: str
    component_bound: float
    picture_bound_db: float
    components: dict[str, float] = field(default_factory=dict)
    pictures_db: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    engines: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two UINT8 pictures in dB; 99 for identical ones."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(10.0 * np.log10(255.0**2 / error))


def relative_error(out: NDArray[np.float32], ref: NDArray[np.float32]) -> float:
    """``||out - ref|| / ||ref||``; infinite when ``out`` holds anything that is not finite."""
    if not np.isfinite(out).all():
        return float("inf")
    return float(np.linalg.norm(out - ref) / max(float(np.linalg.norm(ref)), 1e-12))


@torch.no_grad()
def reference_outputs(
    component: Component, seed: int, shapes: Sequence[tuple[int, dict[str, int]]] = _SHAPES
) -> list[tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]]:
    """Fresh random inputs and what torch makes of them, by default at shapes the exporter never traced."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for batch, axes in shapes:
        inputs = random_inputs(component, batch, axes, generator)
        outputs = component.module(**inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs.append(({k: v.numpy() for k, v in inputs.items()}, [o.numpy() for o in outputs]))
    return pairs


def check_component(
    report: ParityReport,
    component: Component,
    references: list[tuple[dict[str, NDArray[Any]], list[NDArray[Any]]]],
    runner: ComponentRunner,
) -> None:
    """Compare one exported component with torch's outputs and note the worst relative error."""
    worst = 0.0
    for inputs, expected in references:
        outputs = runner(component.name, inputs)
        for port, reference in zip(component.outputs, expected):
            worst = max(worst, relative_error(outputs[port.name], reference))
    report.components[component.name] = worst
    if not worst <= report.component_bound:
        report.failures.append(f"{component.name}: relative error {worst:.2e} is over {report.component_bound:.0e}")


def check_pictures(report: ParityReport, pictures: list[NDArray[np.uint8]], pipeline: Pipeline) -> None:
    """Compare whole pictures with diffusers' at equal seeds and note the PSNR of each."""
    for (prompt, seed), expected in zip(_PROMPTS, pictures):
        request = resolve(GenerationRequest(prompt=prompt, seed=seed), pipeline.served)
        decibels = psnr(_draw(pipeline, request), expected)
        report.pictures_db[f"{prompt} #{seed}"] = round(decibels, 2)
        if not decibels >= report.picture_bound_db:
            report.failures.append(f"picture {prompt!r}: {decibels:.1f} dB is under {report.picture_bound_db:.0f} dB")


def _draw(pipeline: Pipeline, request: ResolvedRequest) -> NDArray[np.uint8]:
    *_, result = pipeline.run(request)
    assert isinstance(result, Generation)
    return result.images[0].pixels


def reference_pictures(checkpoint: Checkpoint, pipeline: Pipeline) -> list[NDArray[np.uint8]]:
    """The gate's pictures drawn by diffusers itself in FP32."""
    return [
        draw_with_diffusers(checkpoint, pipeline, resolve(GenerationRequest(prompt=prompt, seed=seed), pipeline.served))
        for prompt, seed in _PROMPTS
    ]


@torch.no_grad()
def draw_with_diffusers(checkpoint: Checkpoint, pipeline: Pipeline, request: ResolvedRequest) -> NDArray[np.uint8]:
    """One picture, UINT8 ``(height, width, 3)``, by the checkpoint's own diffusers pipeline."""
    options: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    if checkpoint.pipeline.text_encoder is None or checkpoint.pipeline.text_encoder_2 is None:
        # diffusers cannot encode without both CLIPs, so it is given the embeddings.
        positive, negative = pipeline.encode(request.prompt), pipeline.encode(request.negative_prompt)
        options = {
            "prompt_embeds": torch.from_numpy(positive.prompt_embeds[None]),
            "negative_prompt_embeds": torch.from_numpy(negative.prompt_embeds[None]),
            "pooled_prompt_embeds": torch.from_numpy(positive.pooled[None]),
            "negative_pooled_prompt_embeds": torch.from_numpy(negative.pooled[None]),
        }
    if skipping := checkpoint.defaults.skip_layer_guidance:
        options |= {
            "skip_guidance_layers": list(skipping.layers),
            "skip_layer_guidance_scale": skipping.scale,
            "skip_layer_guidance_start": skipping.start,
            "skip_layer_guidance_stop": skipping.stop,
        }
    picture: NDArray[np.float32] = checkpoint.pipeline(
        **options,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        max_sequence_length=pipeline.served.text_encoders[-1].tokens,
        output_type="np",
    ).images[0]
    pixels: NDArray[np.float32] = np.rint(picture * 255.0)
    return pixels.astype(np.uint8)


def new_report(dtype: str) -> ParityReport:
    """An empty report with the bounds of ``dtype``."""
    return ParityReport(dtype, COMPONENT_BOUND[dtype], PICTURE_BOUND_DB[dtype])


def conclude(report: ParityReport) -> ParityReport:
    """The report, if nothing failed. Raises ``ModelRejected`` listing every failure."""
    if report.failures:
        raise ModelRejected("parity failed, nothing is published: " + "; ".join(report.failures))
    return report
