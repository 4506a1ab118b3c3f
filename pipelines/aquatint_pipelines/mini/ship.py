"""Turn a trained run into the checkpoint the repository ships: FP16 weights, cards, scores, sheet, golden images."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray
from PIL import Image

from aquatint_pipelines import generating
from aquatint_pipelines.mini import dataset as datasets
from aquatint_pipelines.mini import judge as judges
from aquatint_pipelines.mini.recipe import Recipe
from aquatint_pipelines.mini.samples import GOLDEN_PROMPTS, SHEET_PROMPTS
from aquatint_pipelines.sampling import Sampling

NUM_INFERENCE_STEPS = 28
GUIDANCE_SCALE = 4.5
_SAMPLING = Sampling(NUM_INFERENCE_STEPS, GUIDANCE_SCALE)
_PIECE_BYTES = 15 << 20


def ship(dataset: datasets.EmojiDataset, dataset_file: Path, *, recipe: Recipe, run: Path, out: Path) -> None:
    """Write ``out`` (the pipeline), ``out/../judge`` and ``out/../dataset`` (data card, contact sheet)."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(run / "pipeline", dtype=torch.float16)
    shutil.rmtree(out, ignore_errors=True)
    pipeline.save_pretrained(out, safe_serialization=True)
    defaults = {"num_inference_steps": NUM_INFERENCE_STEPS, "guidance_scale": GUIDANCE_SCALE}
    (out / "aquatint.json").write_text(json.dumps(defaults, indent=1) + "\n")
    judges.save(judges.load(run / "judge"), out.parent / "judge")
    data = out.parent / "dataset"
    data.mkdir(exist_ok=True)
    datasets.contact_sheet(dataset).quantize(128).save(data / "contact_sheet.png", optimize=True)
    (data / "README.md").write_text(datasets.card(dataset, dataset_file.stat().st_size))
    write_images(out)
    write_scores(dataset, recipe, out)


def pack(run: Path, out: Path) -> list[Path]:
    """Pack the trained pipeline in FP16 and the judge into numbered pieces of at most 15 MiB.

    For machines that only return small files. ``unpack`` makes a run folder of them again.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = StableDiffusion3Pipeline.from_pretrained(run / "pipeline", dtype=torch.float16)
        pipeline.save_pretrained(Path(scratch) / "pipeline", safe_serialization=True)
        shutil.copytree(run / "judge", Path(scratch) / "judge")
        archive = Path(shutil.make_archive(str(Path(scratch) / "run"), "tar", scratch))
        pieces: list[Path] = []
        with archive.open("rb") as file:
            while data := file.read(_PIECE_BYTES):
                pieces.append(out / f"run.tar.{len(pieces):03d}")
                pieces[-1].write_bytes(data)
    return pieces


def unpack(packed: Path, run: Path) -> None:
    """Join the pieces that ``pack`` wrote into the run folder."""
    joined = io.BytesIO(b"".join(piece.read_bytes() for piece in sorted(packed.glob("run.tar.*"))))
    with tarfile.open(fileobj=joined) as archive:
        archive.extractall(run, filter="data")


def write_images(out: Path) -> None:
    """Generate the sample sheet and the golden images with the shipped weights."""
    pipeline = generating.load_pipeline(out)
    prompts = list(SHEET_PROMPTS)
    images = generating.generate(pipeline, prompts, seeds=[7] * len(prompts), sampling=_SAMPLING)
    generating.sheet(images).save(out / "sample_sheet.png")
    golden = out / "golden"
    golden.mkdir(exist_ok=True)
    entries = []
    for index, (prompt, image) in enumerate(zip(GOLDEN_PROMPTS, images)):
        Image.fromarray(image).save(golden / f"{index}.png")
        entries.append({"prompt": prompt, "seed": 7, "file": f"{index}.png"})
    (golden / "golden.json").write_text(json.dumps(entries, indent=1) + "\n")


def write_scores(dataset: datasets.EmojiDataset, recipe: Recipe, out: Path) -> None:
    """Score the shipped weights on the held-out prompts and write ``scores.json`` and the model card."""
    judge = judges.load(out.parent / "judge")
    pipeline = generating.load_pipeline(out)

    def generate(prompts: list[str], seeds: list[int]) -> NDArray[np.uint8]:
        return generating.generate(pipeline, prompts, seeds=seeds, sampling=_SAMPLING)

    plain = judges.held_out_plain(judge, dataset)
    generated = judges.judge_generated(judge, dataset, plain, generate=generate)
    real = judges.judge_real(judge, dataset, plain, size=recipe.image_size)
    scores = {"generated": judges.as_json(generated), "real": judges.as_json(real)}
    if held_out := judges.held_out_scenes(dataset, recipe):
        of_scenes = judges.judge_generated(judge, dataset, held_out, generate=generate)
        scores["generated_scenes"] = judges.as_json(of_scenes)
        scores["real_scenes"] = judges.as_json(judges.judge_real(judge, dataset, held_out, size=recipe.image_size))
    (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    (out / "README.md").write_text(card(recipe, pipeline, subjects=len(judge.subjects), generated=generated, real=real))


def card(recipe: Recipe, pipeline: Any, *, subjects: int, generated: judges.Scores, real: judges.Scores) -> str:
    """Write the model card in Markdown, with front matter."""
    sizes = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    parts = "\n".join(f"| {name} | {type(getattr(pipeline, name)).__name__} | {n:.2f} M |" for name, n in sizes.items())
    rows = "\n".join(f"| {name.replace('_', ' ')} | {generated[name]} | {real[name]} |" for name in generated)
    minutes = recipe.vae.minutes + recipe.transformer.minutes
    hardware = "two CPU cores" if recipe.name == "cpu" else "one NVIDIA H200"
    provisional = (
        "This checkpoint was trained on a CPU and is shipped only until one trained by the `gpu` recipe replaces it.\n"
        if recipe.name == "cpu"
        else ""
    )
    size = recipe.image_size
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Aquatint mini: a small Stable Diffusion 3.5

Draws emoji on plain backgrounds at {size}x{size}, from prompts such as "a flat emoji of a fox on a blue background".
It has SD3.5's own architecture (MMDiT with dual attention and RMS-normalised queries and keys, 16-channel f=8
autoencoder, two CLIP text encoders, one T5 encoder, flow matching) with small numbers, so that a laptop can run and
test everything that serves the large models.

{provisional}
![samples](sample_sheet.png)

| component | class | parameters |
|---|---|---|
{parts}

- **Data**: Fluent Emoji Flat (MIT) and Noto Emoji (Apache-2.0), see `../dataset/README.md`. Weights: Apache-2.0.
- **Recipe**: `{recipe.name}` on {hardware}, {recipe.vae.minutes:g} minutes for the autoencoder and
  {recipe.transformer.minutes:g} for transformer and text encoders ({minutes:g} in all), beside other work.
  {recipe.provenance}
- **Defaults**: {NUM_INFERENCE_STEPS} steps, guidance {GUIDANCE_SCALE}, `max_sequence_length`
  {pipeline.tokenizer_3.model_max_length} (what the server uses; diffusers' own default of 256 works too).
- **What a prompt may leave out**: no style named means flat, no background named means white.

Scores on {generated["subject"].total} held-out prompts (combinations of subject, style and background never trained
on), named by an independent classifier that never saw a generated picture; its score on the original pictures stands
beside it. 95 % intervals.

| right | generated | original pictures |
|---|---|---|
{rows}

Reproduce: `make dataset`, then `.venv/bin/python -m aquatint_pipelines.mini score`.

**Limits**: knows only its {subjects} subjects, two styles and ten colours; no scenes, counts, text or people. Small
details (eyes, stripes) blur.
"""
