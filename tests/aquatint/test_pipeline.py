from pathlib import Path

import numpy as np
import pytest

from aquatint.errors import Cancelled, EngineUnavailable
from aquatint.pipeline import EncodingCache, GenerationResult, Pipeline, Progress, Tensors
from aquatint.prompt import Conditioning
from aquatint.request import parse, resolve
from aquatint.testing import FAKE_MODEL


class LinearRunner:
    """Every row's velocity depends on that row alone; remembers the batch sizes it was given."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        if component == "transformer":
            self.rows.append(len(inputs["timestep"]))
            scale = inputs["timestep"][:, None, None, None] / np.float32(1000)
            return {"noise_pred": inputs["hidden_states"] * scale}
        latents = inputs["latent_sample"]
        return {"sample": latents[:, :3].repeat(8, axis=2).repeat(8, axis=3)}


@pytest.fixture
def runner() -> LinearRunner:
    return LinearRunner()


@pytest.fixture
def pipeline(runner: LinearRunner, tmp_path: Path) -> Pipeline:
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
    absent = [{**encoder, "present": False} for encoder in text]
    served = FAKE_MODEL.model_validate({**FAKE_MODEL.model_dump(), "text_encoders": absent})
    return Pipeline(served, tmp_path, runner)


def draw(pipeline: Pipeline, **fields: object) -> GenerationResult:
    *_, result = pipeline.run(resolve(parse({"prompt": "x", "seed": 1, **fields}), pipeline.served))
    assert isinstance(result, GenerationResult)
    return result


def test_events_and_shapes(pipeline: Pipeline) -> None:
    fields = {"prompt": "x", "width": 32, "height": 48, "num_images": 2, "num_inference_steps": 4, "preview_every": 2}
    *steps, result = pipeline.run(resolve(parse(fields), pipeline.served))
    assert [step.step for step in steps if isinstance(step, Progress)] == [1, 2, 3, 4]
    previews = [step.preview for step in steps if isinstance(step, Progress)]
    assert [preview is not None for preview in previews] == [False, True, False, True]
    assert previews[1] is not None
    assert previews[1].shape == (2, 6, 4, 3)
    assert isinstance(result, GenerationResult)
    assert result.images.shape == (2, 48, 32, 3)
    assert result.images.dtype == np.uint8


def test_absent_encoders_condition_with_zeros(pipeline: Pipeline) -> None:
    conditioning = pipeline.encode("x")
    assert conditioning.prompt_embeds.shape == (4 + 6, 32)
    assert conditioning.pooled.shape == (16,)
    assert not conditioning.prompt_embeds.any()


@pytest.mark.parametrize(("scale", "rows"), [(4.5, 6), (1.0, 3)])
def test_guidance_doubles_the_rows(pipeline: Pipeline, runner: LinearRunner, scale: float, rows: int) -> None:
    draw(pipeline, num_images=3, guidance_scale=scale)
    assert set(runner.rows) == {rows}


def test_rows_beyond_the_batch_limit_are_split(pipeline: Pipeline, runner: LinearRunner) -> None:
    draw(pipeline, num_images=10, num_inference_steps=1)
    assert runner.rows == [8, 8, 4]


def test_image_i_is_the_picture_of_seed_plus_i(pipeline: Pipeline) -> None:
    several = draw(pipeline, num_images=3).images
    for index in range(3):
        np.testing.assert_array_equal(several[index], draw(pipeline, seed=1 + index).images[0])


def test_a_checkpoint_ends_the_run_between_steps(pipeline: Pipeline, runner: LinearRunner) -> None:
    calls = 0

    def stop_at_the_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        list(pipeline.run(resolve(parse({"prompt": "x"}), pipeline.served), stop_at_the_third))
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
