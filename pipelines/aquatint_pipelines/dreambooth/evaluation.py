"""Is the tuned model good enough to be published: does it draw the subject, and everything else as before?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from aquatint.contract.errors import BundleRejected
from aquatint_pipelines.drawing import draw, load_pipeline
from aquatint_pipelines.dreambooth import data
from aquatint_pipelines.dreambooth.embedding import Embedder, similarity
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe, GateRecipe

FILE_NAME = "evaluation.json"


class Comparison(BaseModel):
    """One prompt and seed, drawn by the base model and by the tuned one; file names beside ``evaluation.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    seed: int
    subject: bool
    before: str
    after: str


class Evaluation(BaseModel):
    """What was measured, against what was asked for. Similarities are cosines; a drift is 1 minus a cosine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: str
    subject_similarity: float
    base_similarity: float
    prior_drift: float
    worst_prior_drift: float
    gate: GateRecipe
    comparisons: list[Comparison]

    @property
    def subject_gain(self) -> float:
        """How much nearer to the instance pictures the tuned model comes."""
        return self.subject_similarity - self.base_similarity

    def failures(self) -> list[str]:
        """What the gate refuses, in words; empty if the model may be published."""
        gate, found = self.gate, []
        if self.subject_similarity < gate.min_subject_similarity:
            found.append(f"subject similarity {self.subject_similarity:.3f} is under {gate.min_subject_similarity:g}")
        if self.subject_gain < gate.min_subject_gain:
            found.append(f"it gained {self.subject_gain:.3f}, less than {gate.min_subject_gain:g}")
        if self.prior_drift > gate.max_prior_drift:
            found.append(f"prior drift {self.prior_drift:.3f} is over {gate.max_prior_drift:g}")
        return found


def evaluate(
    base: Path, tuned: Path, dataset: Path, recipe: DreamboothRecipe, embedder: Embedder, out: Path
) -> Evaluation:
    """Draw the gate's prompts with both checkpoints at equal seeds and compare; writes pictures and JSON to ``out``."""
    described = data.read(dataset)
    gate = recipe.gate
    subject = [data.with_token(prompt, described.token) for prompt in gate.subject_prompts]
    prompts = [prompt for prompt in (*subject, *gate.prior_prompts) for _ in range(gate.seeds)]
    seeds = list(range(gate.seeds)) * (len(subject) + len(gate.prior_prompts))
    before, after = (_draw(checkpoint, prompts, seeds, recipe) for checkpoint in (base, tuned))
    count = len(subject) * gate.seeds
    instance = embedder(data.read_pictures(dataset, described.instance))
    embedded_before, embedded_after = embedder(before), embedder(after)
    drifts = 1.0 - (embedded_before[count:] * embedded_after[count:]).sum(axis=1)
    evaluation = Evaluation(
        token=described.token,
        subject_similarity=similarity(embedded_after[:count], instance),
        base_similarity=similarity(embedded_before[:count], instance),
        prior_drift=float(drifts.mean()),
        worst_prior_drift=float(drifts.max()),
        gate=gate,
        comparisons=[
            Comparison(
                prompt=prompt,
                seed=seed,
                subject=index < count,
                before=f"before-{index:03d}.png",
                after=f"after-{index:03d}.png",
            )
            for index, (prompt, seed) in enumerate(zip(prompts, seeds))
        ],
    )
    out.mkdir(parents=True, exist_ok=True)
    for comparison, old, new in zip(evaluation.comparisons, before, after):
        Image.fromarray(old).save(out / comparison.before)
        Image.fromarray(new).save(out / comparison.after)
    (out / FILE_NAME).write_text(evaluation.model_dump_json(indent=1) + "\n")
    return evaluation


def read(folder: Path) -> Evaluation:
    """What ``evaluate`` wrote to ``folder``."""
    return Evaluation.model_validate_json((folder / FILE_NAME).read_bytes())


def check_gate(evaluation: Evaluation) -> None:
    """Raises ``BundleRejected`` with the numbers if the model must not be published."""
    if failures := evaluation.failures():
        raise BundleRejected("the tuned model does not pass: " + "; ".join(failures))


def _draw(checkpoint: Path, prompts: list[str], seeds: list[int], recipe: DreamboothRecipe) -> NDArray[np.uint8]:
    pipeline = load_pipeline(checkpoint)
    return draw(
        pipeline,
        prompts,
        seeds,
        recipe.num_inference_steps,
        recipe.guidance_scale,
        recipe.max_sequence_length,
        recipe.resolution,
    )
