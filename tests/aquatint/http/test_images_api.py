"""OpenAI's images API and KServe V1, by the official client and by hand."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Literal

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from aquatint.contract import errors
from aquatint.contract.image import read_parameters
from aquatint.images import ImageStore
from aquatint.images import convert as picture
from aquatint.testing import FakeGenerator
from tests.aquatint.http.conftest import bearer
from tests.previews import pixels
from tests.serving import until


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as connected:
        yield connected


def opened(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64)))


async def test_the_openai_client_generates(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.generate(prompt="a fox", n=2, model="fake", size="32x64", extra_body={"seed": 5})
    assert answer.data is not None
    assert [opened(image.b64_json).size for image in answer.data] == [(32, 64), (32, 64)]
    parameters = read_parameters(base64.b64decode(answer.data[1].b64_json or ""))
    assert (parameters["prompt"], parameters["seed"]) == ("a fox", 6)
    assert answer.size == "32x64"


async def test_urls_lead_to_the_store(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    answer = await client.images.generate(prompt="a fox", response_format="url", output_format="webp")
    assert answer.data is not None
    assert answer.data[0].url is not None
    assert answer.data[0].url.startswith("http://public/images/")
    picture = await http.get(answer.data[0].url.removeprefix("http://public"))
    assert picture.headers["content-type"] == "image/webp"


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_formats_keep_the_parameters(
    client: openai.AsyncOpenAI, output_format: Literal["png", "jpeg", "webp"]
) -> None:
    answer = await client.images.generate(prompt="a fox", output_format=output_format)
    assert answer.data is not None
    image = opened(answer.data[0].b64_json)
    assert image.format == output_format.upper()
    if output_format != "png":
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment.startswith(b"UNICODE\0")
        assert "a fox" in comment.removeprefix(b"UNICODE\0").decode("utf-16-be")


@pytest.mark.parametrize("partial_images", [0, 1, 3])
async def test_streams_show_partial_images(client: openai.AsyncOpenAI, partial_images: int) -> None:
    stream = await client.images.generate(prompt="a fox", stream=True, partial_images=partial_images)
    events = [event async for event in stream]
    *partial, completed = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * partial_images
    assert [getattr(event, "partial_image_index", None) for event in partial] == list(range(partial_images))
    assert completed.type == "image_generation.completed"
    # The fake engine's previews are its pictures.
    for event in events:
        np.testing.assert_array_equal(pixels(event.b64_json), pixels(completed.b64_json))
    assert pixels(completed.b64_json).shape == (64, 64, 3)


async def test_quality_sets_the_steps(http: httpx.AsyncClient) -> None:
    steps = {}
    for quality in ("low", "medium", "high"):
        body = {"prompt": "x", "quality": quality}
        steps[quality] = (await http.post("/v1/images/generations", json=body)).json()["parameters"][
            "num_inference_steps"
        ]
    assert steps == {"low": 2, "medium": 4, "high": 6}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "n": 11}, "num_images"),
        ({"prompt": "x", "size": "huge"}, "size"),
        ({"prompt": "x", "size": "33x64"}, "width"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "partial_images": 4}, "partial_images"),
        ({"prompt": "x", "steps": 151}, "num_inference_steps"),
        ({"prompt": "x", "guidance": 31}, "guidance_scale"),
        ({"prompt": "x", "background": "transparent"}, "background"),
        ({"prompt": "x", "unknown": 1}, "unknown"),
        ({"prompt": "x", "stream": True, "size": "33x64"}, "width"),
        ({}, "prompt"),
    ],
)
async def test_bad_input_is_named(http: httpx.AsyncClient, fields: dict[str, object], param: str) -> None:
    answer = await http.post("/v1/images/generations", json=fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "InvalidRequest", param)


async def test_malformed_bodies(http: httpx.AsyncClient) -> None:
    for content in (b"{", b"[[[[" * 2000, b"\xff", b"null"):
        answer = await http.post("/v1/images/generations", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "InvalidRequest"


async def test_errors_reach_the_openai_client(client: openai.AsyncOpenAI, engine: FakeGenerator) -> None:
    with pytest.raises(openai.NotFoundError, match="nothing"):
        await client.images.generate(prompt="x", model="nothing")
    with pytest.raises(openai.BadRequestError, match="width"):
        await client.images.generate(prompt="x", size="33x33")
    engine.transport.failures = [errors.Overloaded("busy", 7.0)]
    with pytest.raises(openai.RateLimitError, match="busy") as caught:
        await client.images.generate(prompt="x")
    assert caught.value.response.headers["retry-after"] == "7"
    engine.transport.failures = [errors.EngineUnavailable("gone")]
    with pytest.raises(openai.InternalServerError, match="gone"):
        await client.images.generate(prompt="x", stream=True)


async def test_a_failure_amid_a_stream_is_an_event(
    client: openai.AsyncOpenAI, engine: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(picture, "convert", fail)
    stream = await client.images.generate(prompt="a fox", stream=True, partial_images=3)
    with pytest.raises(openai.APIError, match="internal error") as caught:
        [event async for event in stream]
    assert "secret" not in str(caught.value)
    assert engine.active == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_generation(
    http: httpx.AsyncClient, engine: FakeGenerator, stream: bool
) -> None:
    engine.gate = asyncio.Event()
    body = {"prompt": "a fox", "stream": stream, "partial_images": 3 if stream else 0}
    request = asyncio.create_task(http.post("/v1/images/generations", json=body))
    await until(lambda: engine.active == 1)
    request.cancel()
    await until(lambda: engine.active == 0)


async def test_models_in_both_dialects(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    assert [model.id async for model in client.models.list()] == ["fake"]
    assert (await http.get("/v1/models")).json()["models"] == ["fake"]
    described = (await http.get("/v1/models/fake")).json()
    assert (described["name"], described["ready"], described["aquatint"]["max_size"]) == ("fake", True, 128)
    assert (await http.get("/v1/models/other")).status_code == 404


# ---------------------------------------------------------------- KServe V1


async def test_every_instance_is_predicted(http: httpx.AsyncClient) -> None:
    instances = [{"prompt": "a fox", "height": 32}, {"prompt": "an owl", "negative_prompt": "red", "num_images": 2}]
    answer = (await http.post("/v1/models/fake:predict", json={"instances": instances})).json()
    assert [entry["prompt"] for entry in answer["predictions"]] == ["a fox", "an owl", "an owl"]
    assert {entry["model_name"] for entry in answer["predictions"]} == {"fake"}
    assert [entry["image"]["format"] for entry in answer["predictions"]] == ["PNG"] * 3
    assert opened(answer["predictions"][0]["image"]["b64"]).size == (64, 32)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"instances": []}, 400, "instances"),
        ({"inputs": []}, 400, "instances"),
        ({"instances": [{"prompt": "x"}, {"prompt": "x", "eta": 1}]}, 400, "instances.1.eta"),
        ({"instances": [{"prompt": "x", "width": 33}]}, 400, "width"),
        ({"instances": ["x"]}, 400, "instances.0"),
    ],
)
async def test_bad_instances(http: httpx.AsyncClient, body: object, status: int, message: str) -> None:
    answer = await http.post("/v1/models/fake:predict", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


# ---------------------------------------------------------------- guards


@pytest.mark.parametrize("protected", [True])
async def test_tokens(http: httpx.AsyncClient, protected: bool) -> None:
    body = {"prompt": "x"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}, {"Authorization": ""}):
        for path in ("/v1/models", "/images"):
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await http.post("/v1/images/generations", json=body, headers=headers)).status_code == 401
        assert (await http.post("/v1/models/fake:predict", json={}, headers=headers)).status_code in (400, 401)
        assert (await http.delete(f"/images/{'0' * 40}", headers=headers)).status_code == 401
    assert (await http.post("/v1/images/generations", json=body, headers=bearer("alice"))).status_code == 200


async def test_rate_limit(http: httpx.AsyncClient) -> None:
    statuses = [(await http.get("/v1/models")).status_code for _ in range(21)]
    assert statuses == [200] * 20 + [429]
    # The window is a minute and has only just begun.
    assert 50 <= int((await http.get("/v1/models")).headers["retry-after"]) <= 60


async def test_body_limit(http: httpx.AsyncClient) -> None:
    big = b'{"prompt": "' + b"x" * 20_000 + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        yield big[:5000]
        yield big[5000:]

    assert (await http.post("/v1/images/generations", content=big)).status_code == 413
    assert (await http.post("/v1/images/generations", content=chunks())).status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "public"}, 200),
        ({"Host": "10.128.0.7:8080"}, 200),
        ({"Host": "[fd00::7]:8080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://chat.example"}, 200),
    ],
)
async def test_host_and_origin(http: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    assert (await http.get("/health/live", headers=headers)).status_code == status


async def test_readiness_asks(http: httpx.AsyncClient, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await http.get("/health/ready")).json() == {"store": "ok"}

    def broken(*_: object) -> None:
        raise errors.StoreUnavailable("the disk is full")

    monkeypatch.setattr("aquatint.storage.FileObjects.put", broken)
    answer = await http.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"store": "StoreUnavailable: the disk is full"})
    assert (await http.get("/health/live")).status_code == 200
