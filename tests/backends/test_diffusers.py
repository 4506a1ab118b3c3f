"""Whole pipelines as drawers: every family, previews, cancel, one thread, errors in words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aquatint_backends.diffusers import placement
from aquatint_backends.diffusers.pipeline import DiffusersPipeline
from aquatint_backends.diffusers.placement import PlacementSettings, choose_dtype
from aquatint_export import publish_pipeline

from aquatint import errors, manifest
from aquatint.checkpoint_info import model_info
from aquatint.local_engine import LocalEngine
from aquatint.pipeline import GenerationResult, Progress
from aquatint.request import GenerationRequest, resolve
from tests.checkpoints import MakeCheckpoint
from tests.previews import assert_shows

MakeUnet = Callable[[str], Path]


def load(folder: Path, **settings: Any) -> DiffusersPipeline:
    return DiffusersPipeline(str(folder), "tiny", PlacementSettings(**settings))


def ask(drawer: DiffusersPipeline, **fields: Any) -> Any:
    return resolve(GenerationRequest(**{"prompt": "a fox", "seed": 1, "num_inference_steps": 4, **fields}), drawer.info)


@pytest.fixture(params=["sd15", "sdxl", "sd3.5"])
def drawer(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, make_unet_checkpoint: MakeUnet) -> Any:
    return load(make_checkpoint() if request.param == "sd3.5" else make_unet_checkpoint(request.param))


def test_every_family_draws(drawer: DiffusersPipeline) -> None:
    wanted = ask(drawer, num_images=2, preview_every=2, width=64, height=48)
    *steps, last = drawer.run(wanted)
    assert isinstance(last, GenerationResult)
    assert last.images.shape == (2, 48, 64, 3)
    assert set(last.timings) == {"encode_s", "denoise_s", "decode_s", "total_s"}
    assert [isinstance(step, Progress) and step.step for step in steps] == [1, 2, 3, 4]
    previews = [step.preview for step in steps if isinstance(step, Progress)]
    assert [preview is not None for preview in previews] == [False, True, False, True]
    assert previews[1] is not None
    assert previews[1].shape == (2, 6, 8, 3)
    # Image i is what seed + i draws alone.
    *_, alone = drawer.run(ask(drawer, seed=2, width=64, height=48))
    assert isinstance(alone, GenerationResult)
    assert np.abs(alone.images[0].astype(int) - last.images[1]).max() <= 1


def test_previews_show_the_picture_to_come(mini_checkpoint: Path) -> None:
    """Half way and at the end, for every image: drawn by the weights that the repository ships."""
    drawer = load(mini_checkpoint)
    prompt = "a flat emoji of a fox on a blue background"
    wanted = ask(drawer, prompt=prompt, seed=7, num_images=2, num_inference_steps=8, preview_every=4)
    *steps, last = drawer.run(wanted)
    assert isinstance(last, GenerationResult)
    shown = [step.preview for step in steps if isinstance(step, Progress) and step.preview is not None]
    assert len(shown) == 2
    for previews in shown:
        for preview, image in zip(previews, last.images, strict=True):
            assert_shows(preview, image)


def test_leaving_stops_at_the_next_step(drawer: DiffusersPipeline) -> None:
    seen = []
    run = drawer.run(ask(drawer, num_inference_steps=150, width=64, height=64))
    seen.append(next(run))
    run.close()
    *_, last = drawer.run(ask(drawer, num_inference_steps=1))
    assert isinstance(last, GenerationResult)


def test_cancel_while_waiting_for_the_thread(make_checkpoint: MakeCheckpoint) -> None:
    drawer = load(make_checkpoint())
    first = drawer.run(ask(drawer, num_inference_steps=150))
    next(first)
    cancelled = threading.Event()

    def checkpoint() -> None:
        if cancelled.is_set():
            raise errors.Cancelled("gone")

    second = drawer.run(ask(drawer), checkpoint)
    cancelled.set()
    with pytest.raises(errors.Cancelled):
        next(second)
    first.close()


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), errors.OutOfMemory, "ENABLE_CPU_OFFLOAD"),
        (RuntimeError("secret"), errors.Internal, "internal error"),
    ],
)
async def test_failures_are_told_in_words(
    make_checkpoint: MakeCheckpoint, failure: Exception, expected: type[Exception], message: str
) -> None:
    drawer = load(make_checkpoint())

    def broken(*_: Any, **__: Any) -> None:
        raise failure

    drawer._pipeline.transformer.forward = broken
    engine = LocalEngine(2, 10.0)
    engine.load(drawer)
    with pytest.raises(expected, match=message) as caught:
        await engine.generate(GenerationRequest(prompt="x"))
    assert "secret" not in str(caught.value)
    assert engine.active == 0


async def test_the_local_engine(make_checkpoint: MakeCheckpoint) -> None:
    engine = LocalEngine(1, 30.0)
    with pytest.raises(errors.EngineUnavailable, match="still being loaded"):
        await engine.generate(GenerationRequest(prompt="x"))
    assert not await engine.is_ready()
    engine.load(load(make_checkpoint()))
    assert await engine.is_ready()
    assert [info.name for info in await engine.models()] == ["tiny"]
    with pytest.raises(errors.ModelNotFound):
        await engine.generate(GenerationRequest(prompt="x", model="other"))
    with pytest.raises(errors.DeadlineExceeded):
        await engine.generate(GenerationRequest(prompt="x", num_inference_steps=150), timeout_s=0.05)
    long = asyncio.create_task(engine.generate(GenerationRequest(prompt="x", num_inference_steps=150)))
    while engine.active == 0:
        await asyncio.sleep(0.01)
    with pytest.raises(errors.Overloaded):
        await engine.generate(GenerationRequest(prompt="x"))
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert engine.active == 0
    assert len((await engine.generate(GenerationRequest(prompt="x", num_inference_steps=1))).images) == 1


@pytest.mark.parametrize("option", ["attention_slicing", "vae_slicing", "cpu_offload"])
def test_memory_options_change_no_picture(make_checkpoint: MakeCheckpoint, option: str) -> None:
    folder = make_checkpoint()
    plain, saving = load(folder), load(folder, **{option: True})
    pictures = []
    for drawer in (plain, saving):
        *_, last = drawer.run(ask(drawer))
        assert isinstance(last, GenerationResult)
        pictures.append(last.images.astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_tiles_are_drawn(make_checkpoint: MakeCheckpoint) -> None:
    """Tiling blends seams, so the picture is another one."""
    drawer = load(make_checkpoint(), vae_tiling=True)
    assert drawer.description.endswith("VAE in tiles")
    *_, last = drawer.run(ask(drawer, width=96))
    assert isinstance(last, GenerationResult)
    assert last.images.shape == (1, 64, 96, 3)


def test_offload_and_moving_exclude_each_other() -> None:
    calls = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: calls.append(name)

    placement.place(Recorder(), PlacementSettings(cpu_offload=True), "cuda")  # type: ignore[arg-type]
    placement.place(Recorder(), PlacementSettings(), "cuda")  # type: ignore[arg-type]
    assert calls == ["enable_model_cpu_offload", "to"]


def test_dtype_is_chosen_with_a_reason() -> None:
    assert choose_dtype("auto", "cpu")[0] == torch.float32
    assert choose_dtype("auto", "mps")[0] == torch.float16
    assert choose_dtype("bfloat16", "cpu") == (torch.bfloat16, "DTYPE=bfloat16")
    assert choose_dtype("native", "cuda")[0] is None
    with pytest.raises(errors.InvalidRequest, match="float16 is not usable on a CPU"):
        choose_dtype("float16", "cpu")


def test_the_seed_demos_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOW_CPU_MEM", "ATTENTION_SLICING", "VAE_SLICING", "VAE_TILING", "CPU_OFFLOAD"):
        monkeypatch.setenv(f"ENABLE_{name}", "true")
    monkeypatch.setenv("DTYPE", "native")
    settings = PlacementSettings()
    assert settings.dtype == "native"
    assert all(value for name, value in settings.model_dump().items() if name != "dtype")


def test_bfloat16_stays_close(make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint()
    pictures = []
    for dtype in ("float32", "bfloat16"):
        drawer = load(folder, dtype=dtype)
        *_, last = drawer.run(ask(drawer, num_inference_steps=2))
        assert isinstance(last, GenerationResult)
        pictures.append(last.images.astype(float))
    assert np.abs(pictures[0] - pictures[1]).mean() < 8


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(errors.BundleRejected, match=r"model_index\.json"):
        load(tmp_path)
    with pytest.raises(errors.BundleRejected, match="neither a folder nor"):
        DiffusersPipeline("no/such-model", "x", PlacementSettings())
    folder = make_checkpoint()
    (weights,) = (folder / "vae").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(errors.BundleRejected, match="cannot be read"):
        load(folder)


def test_repository_of_a_pipeline(make_unet_checkpoint: MakeUnet, tmp_path: Path) -> None:
    source = make_unet_checkpoint("sdxl")
    (source / "pickle.bin").write_bytes(b"x")
    written = publish_pipeline(str(source), tmp_path / "repository", "tiny")
    assert manifest.verify(tmp_path / "repository") == written
    assert written.engine == "diffusers"
    copied = tmp_path / "repository" / "tiny_stream" / "1" / "checkpoint"
    assert (copied / "model_index.json").is_file()
    assert not (copied / "pickle.bin").exists()


def test_sizes_of_every_family(make_unet_checkpoint: MakeUnet) -> None:
    info = model_info(make_unet_checkpoint("sd15"), "runwayml/stable-diffusion-v1-5", "x")
    assert (info.default_width, info.pixel_unit, info.min_size, info.max_size) == (64, 8, 16, 128)
    assert (info.default_num_inference_steps, info.default_guidance_scale) == (50, 7.5)


@pytest.mark.parametrize(
    ("source", "steps", "guidance"),
    [
        ("stabilityai/stable-diffusion-3.5-medium", 40, 4.5),
        ("stabilityai/stable-diffusion-3.5-large", 28, 3.5),
        ("stabilityai/stable-diffusion-3.5-large-turbo", 4, 0.0),
        ("/models/my-own", 28, 4.5),
    ],
)
def test_published_defaults(make_checkpoint: MakeCheckpoint, source: str, steps: int, guidance: float) -> None:
    info = model_info(make_checkpoint(), source, "x")
    assert (info.default_num_inference_steps, info.default_guidance_scale) == (steps, guidance)
