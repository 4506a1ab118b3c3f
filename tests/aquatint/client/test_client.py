import inspect
import json
from typing import Literal

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import aquatint.client
from aquatint.client import AsyncClient, Client, Generation, Progress, connect, connect_async
from aquatint.client import _messages as messages
from aquatint.contract import errors
from aquatint.contract.image import read_parameters
from aquatint.contract.request import GenerationRequest
from aquatint.testing import fake_client


def test_public_names() -> None:
    assert aquatint.client.__all__ == [
        "AsyncClient",
        "AsyncTransport",
        "Client",
        "Event",
        "Generation",
        "Image",
        "Progress",
        "Transport",
        "connect",
        "connect_async",
    ]


def test_async_client_has_the_same_calls() -> None:
    def public(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)


def test_generate_and_stream_agree() -> None:
    client = fake_client()
    request = GenerationRequest(prompt="a fox", seed=3, num_images=2, preview_every=2)
    *steps, last = client.stream(request)
    assert [step.step for step in steps if isinstance(step, Progress)] == [1, 2, 3, 4]
    assert isinstance(last, Generation)
    assert last == client.generate(request)
    assert [read_parameters(image.png)["seed"] for image in last.images] == [3, 4]


def test_only_set_fields_are_sent() -> None:
    request = GenerationRequest(prompt="é", seed=2**40, preview_every=2, model="mini")
    assert messages.request_fields(request, stream=False) == {
        "prompt": "é",
        "negative_prompt": "",
        "seed": 2**40,
        "num_images": 1,
    }
    assert messages.request_fields(request, stream=True)["preview_every"] == 2
    by_name = {tensor.name(): tensor for tensor in messages.grpc_inputs({"prompt": "é", "seed": 2**40})}
    assert by_name["seed"].datatype() == "INT64"
    assert by_name["seed"]._get_content() == np.int64(2**40).tobytes()


@pytest.mark.parametrize(
    ("message", "status", "kind"),
    [
        ("InvalidRequest: width: must be …", "StatusCode.INVALID_ARGUMENT", errors.InvalidRequest),
        ("Overloaded: 80 requests; retry after 7 s", "StatusCode.UNAVAILABLE", errors.Overloaded),
        ("Request for unknown model: 'x' is not found", "StatusCode.NOT_FOUND", errors.ModelNotFound),
        ("failed to connect to all addresses", "StatusCode.UNAVAILABLE", errors.EngineUnavailable),
        ("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED", errors.DeadlineExceeded),
        ("Locally cancelled", "StatusCode.CANCELLED", errors.Cancelled),
        ("boom", "StatusCode.INTERNAL", errors.Internal),
    ],
)
def test_triton_errors(message: str, status: str, kind: type[errors.AquatintError]) -> None:
    assert type(messages.from_triton(InferenceServerException(message, status))) is kind


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_nobody_there(protocol: Literal["grpc", "http"]) -> None:
    """Every call of both clients says so in the error table's words, without addresses."""
    wanted = GenerationRequest(prompt="x")
    options = {"url": "127.0.0.1:9", "protocol": protocol, "retries": 0}
    with connect(**options) as client:
        calls = [lambda: client.generate(wanted), lambda: list(client.stream(wanted)), client.models]
        for call in calls:
            with pytest.raises(errors.EngineUnavailable, match="cannot be reached") as error:
                call()
            assert "127.0.0.1" not in str(error.value)
        assert not client.is_ready()
    async with connect_async(**options) as client:
        for awaitable in (client.generate(wanted), anext(client.stream(wanted)), client.models()):
            with pytest.raises(errors.EngineUnavailable, match="cannot be reached") as error:
                await awaitable
            assert "127.0.0.1" not in str(error.value)
        assert not await client.is_ready()


def test_json_errors_are_raised() -> None:
    with pytest.raises(errors.InvalidRequest, match="prompt"):
        messages.parse_json({"error": "InvalidRequest: prompt: must not be empty"})


def test_progress_without_preview() -> None:
    info = json.dumps({"type": "progress", "step": 1, "total_steps": 4})
    assert messages.parse_json({"info": info}) == Progress(1, 4)
