from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from aquatint.contract.errors import Cancelled, EngineUnavailable
from aquatint.contract.generation import Generation, Progress
from aquatint.contract.request import parse, resolve
from aquatint.diffusion.noise import randn
from aquatint.diffusion.pipeline import Caller, EncodingCache, Pipeline
from aquatint.diffusion.prompt import Conditioning
from aquatint.diffusion.rows import Tensors
from aquatint.testing import FAKE_MODEL
from tests.previews import assert_shows

Tensor = NDArray[Any]


class LinearRunner:
    """Every row's velocity depends on that row alone; remembers the batch sizes it was given."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        if component == "transformer":
            self.rows.append(len(inputs["timestep"]))
            sigma = inputs["timestep"][:, None, None, None] / np.float32(1000)
            return {"noise_pred": self.velocity(inputs["hidden_states"], sigma, inputs)}
        latents = inputs["latent_sample"]
        return {"sample": latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)}

    def velocity(self, latents: Tensor, sigma: Tensor, inputs: Tensors) -> Tensor:
        return latents * sigma


class SteeredRunner(LinearRunner):
    """Heads straight for latents that are known from the start."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def velocity(self, latents: Tensor, sigma: Tensor, inputs: Tensors) -> Tensor:
        return (latents - self.target) / sigma


class PromptRunner(LinearRunner):
    """Encodes a prompt as the number it is; its velocity is that number everywhere."""

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        if component.startswith("text_encoder"):
            return {"prompt_embeds": np.full((1, 6, 32), inputs["input_ids"][0, 0], np.float32)}
        return super().__call__(component, inputs)

    def velocity(self, latents: Tensor, sigma: Tensor, inputs: Tensors) -> Tensor:
        numbers = inputs["encoder_hidden_states"][:, -1, 0]
        return np.broadcast_to(numbers[:, None, None, None], latents.shape)


@pytest.fixture
def runner() -> LinearRunner:
    return LinearRunner()


@pytest.fixture
def pipeline(runner: LinearRunner, tmp_path: Path) -> Pipeline:
    return make_pipeline(runner, tmp_path)


def make_pipeline(runner: LinearRunner, folder: Path, present: tuple[str, ...] = (), **fields: object) -> Pipeline:
    text = [
        {
            "component": "text_encoder",
            "tokenizer": "t",
            "kind": "clip",
            "tokens": 4,
            "hidden_size": 8,
            "projection_dim": 8,
        },
        {
            "component": "text_encoder_2",
            "tokenizer": "t",
            "kind": "clip",
            "tokens": 4,
            "hidden_size": 8,
            "projection_dim": 8,
        },
        {
            "component": "text_encoder_3",
            "tokenizer": "t",
            "kind": "t5",
            "tokens": 6,
            "hidden_size": 32,
            "projection_dim": 0,
        },
    ]
    encoders = [{**encoder, "present": encoder["component"] in present} for encoder in text]
    served = FAKE_MODEL.model_validate({**FAKE_MODEL.model_dump(), "text_encoders": encoders, **fields})
    return Pipeline(served, folder, runner)


def generate(pipeline: Pipeline, **fields: object) -> Generation:
    *_, result = pipeline.run(resolve(parse({"prompt": "x", "seed": 1, **fields}), pipeline.served))
    assert isinstance(result, Generation)
    return result


def test_events_and_shapes(pipeline: Pipeline) -> None:
    fields = {"prompt": "x", "width": 32, "height": 48, "num_images": 2, "num_inference_steps": 4, "preview_every": 2}
    *steps, result = pipeline.run(resolve(parse(fields), pipeline.served))
    assert [step.step for step in steps if isinstance(step, Progress)] == [1, 2, 3, 4]
    previews = [step.previews for step in steps if isinstance(step, Progress)]
    assert [[image.pixels.shape for image in each] for each in previews] == [[], [(6, 4, 3)] * 2, [], [(6, 4, 3)] * 2]
    assert isinstance(result, Generation)
    assert result.pixels.shape == (2, 48, 32, 3)
    assert result.pixels.dtype == np.uint8


def test_previews_show_the_image_to_come(tmp_path: Path) -> None:
    """From the first step on, a preview shows the latents this step heads for, not the noisy ones it has."""
    target = np.random.default_rng(0).uniform(-1, 1, (16, 8, 6)).astype(np.float32)
    # The fake decoder shows the first three channels as they are, -1..1.
    factors = [*(np.eye(16, 3) / 2).tolist(), [0.5] * 3]
    steered = make_pipeline(SteeredRunner(target), tmp_path, preview_factors=factors)
    fields = {"prompt": "x", "width": 48, "height": 64, "num_images": 2, "preview_every": 1, "seed": 1}
    *steps, result = steered.run(resolve(parse(fields), steered.served))
    assert isinstance(result, Generation)
    for step in steps:
        assert isinstance(step, Progress)
        for preview, image in zip(step.previews, result.images, strict=True):
            assert np.abs(preview.pixels.astype(int) - image.pixels[::8, ::8]).max() <= 1
            assert_shows(preview.pixels, image.pixels)


def test_absent_encoders_condition_with_zeros(pipeline: Pipeline) -> None:
    conditioning = pipeline.encode("x")
    assert conditioning.prompt_embeds.shape == (4 + 6, 32)
    assert conditioning.pooled.shape == (16,)
    assert not conditioning.prompt_embeds.any()


@pytest.mark.parametrize(("scale", "rows"), [(4.5, 6), (1.0, 3)])
def test_guidance_doubles_the_rows(pipeline: Pipeline, runner: LinearRunner, scale: float, rows: int) -> None:
    generate(pipeline, num_images=3, guidance_scale=scale)
    assert set(runner.rows) == {rows}


@pytest.mark.parametrize(
    ("negative", "scale", "velocity"),
    [("1", 4.5, 1 + 4.5 * (3 - 1)), ("5", 2.0, 5 + 2.0 * (3 - 5)), ("1", 1.0, 3), ("1", 0.0, 3)],
)
def test_guidance_leads_away_from_the_negative_prompt(
    tmp_path: Path, negative: str, scale: float, velocity: float
) -> None:
    """One Euler step from sigma 1 to 0 subtracts the guided velocity from the noise."""
    write_tokenizer(tmp_path / "t" / "tokenizer.json", tokens=6)
    told = make_pipeline(PromptRunner(), tmp_path, present=("text_encoder_3",))
    decoded: list[Tensor] = []

    def decode(latents: Tensor) -> NDArray[np.uint8]:
        decoded.append(latents)
        return np.zeros((1, 64, 64, 3), np.uint8)

    told.decode = decode  # type: ignore[method-assign]
    fields = {"prompt": "3", "negative_prompt": negative, "guidance_scale": scale, "num_inference_steps": 1, "seed": 4}
    list(told.run(resolve(parse(fields), told.served)))
    np.testing.assert_allclose(decoded[0][0], randn((16, 8, 8), 4) - velocity, atol=1e-4)


def test_words_that_did_not_fit_are_counted(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "t" / "tokenizer.json", tokens=6)
    told = make_pipeline(PromptRunner(), tmp_path, present=("text_encoder_3",))
    # The negative prompt's own loss is not the caller's concern.
    fields = {"negative_prompt": "1 " * 50, "num_inference_steps": 1}
    assert generate(told, prompt="3 " * 6, **fields).dropped_tokens == 0
    assert generate(told, prompt="3 " * 10, **fields).dropped_tokens == 4


def write_tokenizer(path: Path, tokens: int) -> None:
    """Write a tokenizer whose words are numbers up to 9; padded and cut to a fixed length."""
    tokenizer = Tokenizer(WordLevel({str(number): number for number in range(10)}, unk_token="0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens)
    path.parent.mkdir()
    tokenizer.save(str(path))


def test_rows_beyond_the_batch_limit_are_split(pipeline: Pipeline, runner: LinearRunner) -> None:
    generate(pipeline, num_images=10, num_inference_steps=1)
    assert runner.rows == [8, 8, 4]


def test_image_i_is_the_image_of_seed_plus_i(pipeline: Pipeline) -> None:
    several = generate(pipeline, num_images=3).images
    for index in range(3):
        np.testing.assert_array_equal(several[index].pixels, generate(pipeline, seed=1 + index).images[0].pixels)


def test_the_caller_ends_the_run_between_steps(pipeline: Pipeline, runner: LinearRunner) -> None:
    calls = 0

    def stop_at_the_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        list(pipeline.run(resolve(parse({"prompt": "x"}), pipeline.served), Caller(stop_at_the_third)))
    assert len(runner.rows) == 2


def test_values_that_are_not_finite_are_an_error(pipeline: Pipeline) -> None:
    with pytest.raises(EngineUnavailable, match="not finite"):
        pipeline.decode(np.full((1, 16, 2, 2), np.nan, np.float32))


def test_cache_counts_drops_and_skips() -> None:
    small = Conditioning(np.zeros((4, 4), np.float32), np.zeros(4, np.float32), 0)
    cache = EncodingCache(max_bytes=2 * small.nbytes)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        cache.get(prompt, lambda _: small)
    assert (cache.hits, cache.misses) == (2, 4)
    nothing = EncodingCache(max_bytes=0)
    assert nothing.get("a", lambda _: small) is small
    assert nothing.get("a", lambda _: small) is small
    assert nothing.misses == 2
