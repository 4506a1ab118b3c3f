"""Every way into every engine, behind one interface: generate, or say which error raw fields get."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import numpy as np
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from aquatint.client import connect
from aquatint.contract import errors
from aquatint.contract.errors import AquatintError
from aquatint.contract.fields import TENSORS
from aquatint.contract.request import GenerationRequest

MODEL = "mini"
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What every endpoint must give: PNG files, their seeds and the effective parameters."""

    files: list[bytes]
    seeds: list[int]
    parameters: dict[str, Any]


class Endpoint(Protocol):
    """One protocol of one server."""

    def generate(self, fields: dict[str, Any]) -> Answer:
        """Generate from raw fields of the contract. Raises ``AquatintError``."""

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        """Send a request, and hang up after a while."""


class ClientEndpoint:
    """Our own client, over gRPC or HTTP; the HTTP one streams."""

    def __init__(self, url: str, protocol: str) -> None:
        self._options = {"url": url, "protocol": protocol, "model": MODEL, "retries": 0, "timeout_s": _TIMEOUT_S}

    def generate(self, fields: dict[str, Any]) -> Answer:
        # Built without validation, so that the server's is tested.
        request = GenerationRequest.model_construct(**{"negative_prompt": "", "num_images": 1, **fields})
        with connect(**self._options) as client:
            generation = client.generate(request)
        seeds = [image.seed for image in generation.images]
        return Answer([image.png for image in generation.images], seeds, generation.parameters.model_dump())

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        request = GenerationRequest(**fields)
        with connect(**self._options) as client:
            try:
                client.generate(request, timeout_s=after_s)
            except errors.DeadlineExceeded:
                return
        raise AssertionError("it was generated before the client hung up")


class _HttpEndpoint:
    def __init__(self, url: str) -> None:
        self._url = f"http://{url}"

    def _post(self, path: str, body: Any, timeout: float = _TIMEOUT_S) -> Any:
        response = httpx.post(self._url + path, json=body, timeout=timeout)
        if response.is_error:
            raise _error(response)
        return response.json()

    def _leave(self, path: str, body: Any, after_s: float) -> None:
        try:
            self._post(path, body, timeout=after_s)
        except httpx.ReadTimeout:
            return
        raise AssertionError("it was generated before the client hung up")


class V1Endpoint(_HttpEndpoint):
    """KServe V1, with the seed demo's body."""

    _PATH = f"/v1/models/{MODEL}:predict"

    def generate(self, fields: dict[str, Any]) -> Answer:
        predictions = self._post(self._PATH, {"instances": [fields]})["predictions"]
        files = [base64.b64decode(entry["image"]["b64"]) for entry in predictions]
        return Answer(files, [entry["seed"] for entry in predictions], predictions[0]["parameters"])

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        self._leave(self._PATH, {"instances": [fields]}, after_s)


class V2RestEndpoint(_HttpEndpoint):
    """The Open Inference Protocol over REST, in JSON."""

    _PATH = f"/v2/models/{MODEL}/infer"

    def generate(self, fields: dict[str, Any]) -> Answer:
        answer = self._post(self._PATH, self._body(fields))
        tensors = {output["name"]: output["data"] for output in answer["outputs"]}
        files = [base64.b64decode(file) for file in tensors["png"]]
        return Answer(files, tensors["seed"], json.loads(tensors["info"][0])["parameters"])

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        self._leave(self._PATH, self._body(fields), after_s)

    @staticmethod
    def _body(fields: dict[str, Any]) -> dict[str, Any]:
        inputs = [
            {"name": name, "shape": [1], "datatype": TENSORS[name].datatype, "data": [value]}
            for name, value in fields.items()
        ]
        return {"inputs": inputs, "outputs": [{"name": name} for name in ("png", "seed", "info")]}


class V2GrpcEndpoint:
    """The Open Inference Protocol over gRPC, with NVIDIA's client."""

    def __init__(self, url: str) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(url)

    def generate(self, fields: dict[str, Any]) -> Answer:
        try:
            result = self._infer(fields, _TIMEOUT_S)
        except InferenceServerException as error:
            raise errors.from_wire(error.message() or "") or error from None
        files = [base64.b64decode(file) for file in result.as_numpy("png")]
        info = json.loads(result.as_numpy("info")[0])
        return Answer(files, result.as_numpy("seed").tolist(), info["parameters"])

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        try:
            self._infer(fields, after_s)
        except InferenceServerException as error:
            if "DEADLINE" in str(error.status()).upper():
                return
            raise
        raise AssertionError("it was generated before the client hung up")

    def _infer(self, fields: dict[str, Any], timeout: float) -> Any:
        inputs = []
        for name, value in fields.items():
            inputs.append(tritonclient.grpc.InferInput(name, [1], TENSORS[name].datatype))
            data = value.encode() if isinstance(value, str) else value
            inputs[-1].set_data_from_numpy(np.array([data], TENSORS[name].numpy))
        outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ("png", "seed", "info")]
        return self._client.infer(MODEL, inputs, outputs=outputs, client_timeout=timeout)


def _error(response: httpx.Response) -> AquatintError:
    """Read the error of an HTTP answer, in Triton's shape or OpenAI's; its status must fit the table."""
    body = response.json()["error"]
    if isinstance(body, str):
        found = errors.from_wire(body)
    else:
        found = errors.from_wire(f"{body['code']}: {body['message']}")
        assert found is not None
        assert response.status_code == errors.mapping(found).http
    assert found is not None, response.text
    return found
