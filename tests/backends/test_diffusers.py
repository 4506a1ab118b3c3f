"""Whole pipelines as drawers: every family, previews, cancel, one thread, errors in words."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import accelerate
import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from aquatint_backends.aquatint_runtime.local_generator import LocalGenerator
from aquatint_backends.diffusers import placement
from aquatint_backends.diffusers.pipeline import DiffusersPipeline
from aquatint_backends.diffusers.placement import PlacementSettings, choose_dtype
from aquatint_export import ExportOptions, export_checkpoint
from diffusers import SD3Transformer2DModel
from numpy.typing import NDArray

from aquatint.contract import errors
from aquatint.contract.generation import Generation, Progress
from aquatint.contract.request import GenerationRequest, resolve
from aquatint.diffusion.pipeline import Caller
from aquatint.repository import manifest
from aquatint.repository.checkpoint_info import model_info
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
    assert isinstance(last, Generation)
    assert last.pixels.shape == (2, 48, 64, 3)
    assert set(last.timings) == {"encode_s", "denoise_s", "decode_s", "total_s"}
    assert [isinstance(step, Progress) and step.step for step in steps] == [1, 2, 3, 4]
    previews = [step.previews for step in steps if isinstance(step, Progress)]
    assert [[image.pixels.shape for image in each] for each in previews] == [[], [(6, 8, 3)] * 2, [], [(6, 8, 3)] * 2]
    # Image i is what seed + i draws alone.
    *_, alone = drawer.run(ask(drawer, seed=2, width=64, height=48))
    assert isinstance(alone, Generation)
    assert np.abs(alone.pixels[0].astype(int) - last.pixels[1]).max() <= 1


def test_previews_show_the_picture_to_come(mini_checkpoint: Path) -> None:
    """Half way and at the end, for every image: drawn by the weights that the repository ships."""
    drawer = load(mini_checkpoint)
    prompt = "a flat emoji of a fox on a blue background"
    wanted = ask(drawer, prompt=prompt, seed=7, num_images=2, num_inference_steps=8, preview_every=4)
    *steps, last = drawer.run(wanted)
    assert isinstance(last, Generation)
    shown = [step.previews for step in steps if isinstance(step, Progress) and step.previews]
    assert len(shown) == 2
    for previews in shown:
        for preview, image in zip(previews, last.images, strict=True):
            assert_shows(preview.pixels, image.pixels)


def test_leaving_stops_at_the_next_step(drawer: DiffusersPipeline) -> None:
    seen = []
    run = drawer.run(ask(drawer, num_inference_steps=150, width=64, height=64))
    seen.append(next(run))
    run.close()
    *_, last = drawer.run(ask(drawer, num_inference_steps=1))
    assert isinstance(last, Generation)


def test_cancel_while_waiting_for_the_thread(make_checkpoint: MakeCheckpoint) -> None:
    drawer = load(make_checkpoint())
    first = drawer.run(ask(drawer, num_inference_steps=150))
    next(first)
    cancelled = threading.Event()

    def raise_if_cancelled() -> None:
        if cancelled.is_set():
            raise errors.Cancelled("gone")

    second = drawer.run(ask(drawer), Caller(raise_if_cancelled))
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
    engine = LocalGenerator(2, 10.0)
    engine.load(drawer)
    with pytest.raises(expected, match=message) as caught:
        await engine.generate(GenerationRequest(prompt="x"))
    assert "secret" not in str(caught.value)
    assert engine.active == 0


async def test_the_local_engine(make_checkpoint: MakeCheckpoint) -> None:
    engine = LocalGenerator(1, 30.0)
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


def drawn(drawer: DiffusersPipeline, **fields: Any) -> NDArray[np.uint8]:
    *_, last = drawer.run(ask(drawer, **fields))
    assert isinstance(last, Generation)
    return last.pixels


def decoder_batches(drawer: DiffusersPipeline) -> list[int]:
    """How many images the VAE's decoder is given by each of its calls from now on."""
    sizes: list[int] = []
    drawer._pipeline.vae.decoder.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize(("vae_slicing", "batches"), [(False, [3]), (True, [1, 1, 1])])
def test_a_sliced_vae_decodes_one_image_at_a_time(
    make_checkpoint: MakeCheckpoint, vae_slicing: bool, batches: list[int]
) -> None:
    drawer = load(make_checkpoint(), vae_slicing=vae_slicing)
    assert ("VAE one image at a time" in drawer.description) is vae_slicing
    seen = decoder_batches(drawer)
    several = drawn(drawer, num_images=3, num_inference_steps=1)
    assert seen == batches
    for index, image in enumerate(several):
        alone = drawn(drawer, seed=1 + index, num_inference_steps=1)
        assert np.abs(image.astype(int) - alone[0]).max() <= 1


def test_a_tiled_vae_decodes_small_pieces(make_checkpoint: MakeCheckpoint) -> None:
    """Tiling blends seams, so the picture is another one."""
    folder = make_checkpoint()
    plain, tiled = load(folder), load(folder, vae_tiling=True)
    assert tiled.description.endswith("VAE in tiles")
    whole, pieces = decoder_batches(plain), decoder_batches(tiled)
    for drawer in (plain, tiled):
        assert drawn(drawer, width=96, num_inference_steps=1).shape == (1, 64, 96, 3)
    assert len(whole) == 1
    assert len(pieces) > 1


def processors(drawer: DiffusersPipeline) -> set[str]:
    denoiser = getattr(drawer._pipeline, "unet", None) or drawer._pipeline.transformer
    return {type(processor).__name__ for processor in denoiser.attn_processors.values()}


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_unet_slices_its_attention(make_unet_checkpoint: MakeUnet, kind: str) -> None:
    folder = make_unet_checkpoint(kind)
    plain, sliced = load(folder), load(folder, attention_slicing=True)
    assert "SlicedAttnProcessor" not in processors(plain)
    assert processors(sliced) == {"SlicedAttnProcessor"}
    assert "attention in slices" in sliced.description
    assert np.abs(drawn(plain).astype(int) - drawn(sliced)).max() <= 1


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name == "aquatint.diffusers"]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def test_sd3_has_no_attention_to_slice(make_checkpoint: MakeCheckpoint, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_checkpoint()
    plain, asked = load(folder), load(folder, attention_slicing=True)
    assert processors(asked) == processors(plain) == {"JointAttnProcessor2_0"}
    assert "attention" not in asked.description
    (warning,) = warnings_of(caplog)
    assert warning.startswith("ENABLE_ATTENTION_SLICING does nothing here: no part of a StableDiffusion3Pipeline")
    np.testing.assert_array_equal(drawn(plain), drawn(asked))


def test_a_cpu_has_nowhere_to_offload_to(make_checkpoint: MakeCheckpoint, caplog: pytest.LogCaptureFixture) -> None:
    drawer = load(make_checkpoint(), cpu_offload=True)
    assert "visit the device" not in drawer.description
    assert warnings_of(caplog) == [
        "ENABLE_CPU_OFFLOAD does nothing here: there is no accelerator to move parts to and from"
    ]


def test_parts_visit_the_device_when_they_are_needed(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU that is a CPU in truth: diffusers' and accelerate's own hooks run, and are watched."""
    folder = make_checkpoint()
    expected = drawn(load(folder))
    devices: list[tuple[str, str]] = []
    visits: list[str] = []

    def watched(model: torch.nn.Module, device: torch.device, prev_module_hook: Any = None) -> Any:
        name = type(model).__name__
        devices.append((name, str(device)))
        model.register_forward_pre_hook(lambda *_: visits.append(name))
        return cpu_offload_with_hook(model, "cpu", prev_module_hook)

    monkeypatch.setattr(accelerate, "cpu_offload_with_hook", watched)
    monkeypatch.setattr("aquatint_backends.diffusers.pipeline.choose_device", lambda: ("cuda", "for this test"))
    offloaded = load(folder, cpu_offload=True, dtype="float32")
    assert "parts wait in CPU memory and visit the device in turn" in offloaded.description
    clip, t5 = "CLIPTextModelWithProjection", "T5EncoderModel"
    parts = [clip, clip, t5, "SD3Transformer2DModel", "AutoencoderKL"]
    assert devices == [(part, "cuda:0") for part in parts]
    np.testing.assert_array_equal(drawn(offloaded), expected)
    # The VAE is moved by its decode(), not by forward().
    assert set(visits) == {clip, t5, "SD3Transformer2DModel"}


@pytest.mark.parametrize("low_cpu_mem", [True, False])
def test_low_cpu_mem_builds_parts_empty(
    make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, low_cpu_mem: bool
) -> None:
    """Empty parts have no memory of their own: the weights that are read become theirs."""
    empty: list[bool] = []
    from_config = SD3Transformer2DModel.from_config.__func__

    def watched(cls: type, *args: Any, **kwargs: Any) -> Any:
        made = from_config(cls, *args, **kwargs)
        empty.append({parameter.device.type for parameter in made.parameters()} == {"meta"})
        return made

    folder = make_checkpoint()
    monkeypatch.setattr(SD3Transformer2DModel, "from_config", classmethod(watched))
    drawer = load(folder, low_cpu_mem=low_cpu_mem)
    assert empty == [low_cpu_mem]
    assert ("weights loaded without a second copy" in drawer.description) is low_cpu_mem


def test_a_vae_that_cannot_slice_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Pixels:
        """A pipeline without a VAE."""

        components: ClassVar[dict[str, Any]] = {}

        def to(self, device: str) -> None: ...

    wanted = PlacementSettings(vae_slicing=True, vae_tiling=True, low_cpu_mem=False)
    assert placement.place(Pixels(), wanted, "cpu") == []
    assert [warning.split(" does nothing here")[0] for warning in warnings_of(caplog)] == [
        "ENABLE_VAE_SLICING",
        "ENABLE_VAE_TILING",
    ]


def test_offload_and_moving_exclude_each_other() -> None:
    calls = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: calls.append(name)

    placement.place(Recorder(), PlacementSettings(cpu_offload=True), "cuda")
    placement.place(Recorder(), PlacementSettings(), "cuda")
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
        assert isinstance(last, Generation)
        pictures.append(last.pixels.astype(float))
    assert np.abs(pictures[0] - pictures[1]).mean() < 8


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(errors.ModelRejected, match=r"model_index\.json"):
        load(tmp_path)
    with pytest.raises(errors.HubUnavailable, match="neither a folder nor"):
        DiffusersPipeline("no/such-model", "x", PlacementSettings())
    folder = make_checkpoint()
    (weights,) = (folder / "vae").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(errors.ModelRejected, match="cannot be read"):
        load(folder)


def test_repository_of_a_pipeline(make_unet_checkpoint: MakeUnet, tmp_path: Path) -> None:
    source = make_unet_checkpoint("sdxl")
    (source / "pickle.bin").write_bytes(b"x")
    written = export_checkpoint(str(source), tmp_path / "repository", ExportOptions(name="tiny", engine="diffusers"))
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
