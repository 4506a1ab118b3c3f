import math
from typing import Any

import pytest

from aquatint.contract.errors import InvalidRequest
from aquatint.contract.request import MAX_SEED, parse, resolve
from aquatint.testing import FAKE_MODEL


def test_defaults_are_the_models_own() -> None:
    resolved = resolve(parse({"prompt": "  a fox \n"}), FAKE_MODEL)
    assert resolved.prompt == "a fox"
    assert (resolved.width, resolved.height) == (64, 64)
    assert resolved.num_inference_steps == FAKE_MODEL.default_num_inference_steps
    assert resolved.guidance_scale == FAKE_MODEL.default_guidance_scale
    assert 0 <= resolved.seed < 2**32


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \t\n"}, "prompt"),
        ({"prompt": "x" * 4097}, "4096 bytes"),
        ({"prompt": "é" * 2049}, "4096 bytes"),
        ({"prompt": b"\xff\xfe"}, "UTF-8"),
        ({"prompt": "\ud800"}, "UTF-8"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "negative_prompt": "y" * 5000}, "negative_prompt"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "x", "num_inference_steps": 10**6}, "num_inference_steps"),
        ({"prompt": "x", "num_inference_steps": 2.5}, "num_inference_steps"),
        ({"prompt": "x", "guidance_scale": math.nan}, "guidance_scale"),
        ({"prompt": "x", "guidance_scale": math.inf}, "guidance_scale"),
        ({"prompt": "x", "guidance_scale": -1}, "guidance_scale"),
        ({"prompt": "x", "guidance_scale": 30.5}, "guidance_scale"),
        ({"prompt": "x", "width": 0}, "width"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": 2**63}, "seed"),
        ({"prompt": "x", "num_images": 0}, "num_images"),
        ({"prompt": "x", "num_images": 11}, "num_images"),
        ({"prompt": "x", "preview_every": -1}, "preview_every"),
        ({"prompt": "x", "cfg": 3}, "cfg"),
    ],
)
def test_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        parse(fields)


LIMITS: dict[str, tuple[Any, Any]] = {
    # The last value that is taken, and the first that is not.
    "num_inference_steps": (150, 151),
    "guidance_scale": (30.0, 30.01),
    "seed": (2**63 - 1, 2**63),
    "num_images": (10, 11),
    "prompt": ("x" * 4096, "x" * 4097),
    "negative_prompt": ("é" * 2048, "é" * 2048 + "x"),
}


@pytest.mark.parametrize("field", LIMITS)
def test_limits_are_where_they_are_said_to_be(field: str) -> None:
    taken, refused = LIMITS[field]
    assert getattr(parse({"prompt": "x", field: taken}), field) == taken
    with pytest.raises(InvalidRequest, match=field):
        parse({"prompt": "x", field: refused})


@pytest.mark.parametrize("field", ["num_inference_steps", "width", "height", "num_images"])
def test_one_is_the_least(field: str) -> None:
    assert getattr(parse({"prompt": "x", field: 1}), field) == 1
    with pytest.raises(InvalidRequest, match=field):
        parse({"prompt": "x", field: 0})


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("value", [16, 128])
def test_sizes_at_the_model_s_ends(side: str, value: int) -> None:
    assert getattr(resolve(parse({"prompt": "x", side: value}), FAKE_MODEL), side) == value


def test_a_preview_of_the_last_step() -> None:
    assert resolve(parse({"prompt": "x", "num_inference_steps": 4, "preview_every": 4}), FAKE_MODEL).preview_every == 4


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("value", [7, 24, 144, 100_000])
def test_sizes_the_model_cannot_generate(side: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{side}: must be a multiple of 16 from 16 to 128, is {value}"):
        resolve(parse({"prompt": "x", side: value}), FAKE_MODEL)


def test_preview_beyond_the_steps() -> None:
    with pytest.raises(InvalidRequest, match="preview_every"):
        resolve(parse({"prompt": "x", "num_inference_steps": 4, "preview_every": 5}), FAKE_MODEL)


def test_long_prompts_are_not_echoed() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"prompt": "x" * 100_000})
    assert len(str(refused.value)) < 200


def test_seeds_count_up_and_stay_in_range() -> None:
    resolved = resolve(parse({"prompt": "x", "seed": MAX_SEED, "num_images": 3}), FAKE_MODEL)
    assert resolved.seeds == [MAX_SEED, 0, 1]


@pytest.mark.parametrize(("scale", "guided"), [(0.0, False), (1.0, False), (1.01, True)])
def test_guidance_of_one_is_none(scale: float, guided: bool) -> None:
    assert resolve(parse({"prompt": "x", "guidance_scale": scale}), FAKE_MODEL).uses_guidance is guided
