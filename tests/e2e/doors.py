"""Every way into every engine, with one face: draw a request, or say which error raw fields get."""

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
class Drawn:
    """What every door must give: PNG files, their seeds and the effective parameters."""

    files: list[bytes]
    seeds: list[int]
    parameters: dict[str, Any]


class Door(Protocol):
    """One protocol of one server."""

    def draw(self, fields: dict[str, Any]) -> Drawn:
        """Draw raw fields of the contract. Raises ``AquatintError``."""

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        """Ask, and hang up after a while."""


class ClientDoor:
    """Our own client, over gRPC or HTTP; the HTTP one streams."""

    def __init__(self, url: str, protocol: str) -> None:
        self._options = {"url": url, "protocol": protocol, "model": MODEL, "retries": 0, "timeout_s": _TIMEOUT_S}

    def draw(self, fields: dict[str, Any]) -> Drawn:
        # Built without validation, so that the server's is tested.
        request = GenerationRequest.model_construct(**{"negative_prompt": "", "num_images": 1, **fields})
        with connect(**self._options) as client:
            generation = client.generate(request)
        seeds = [image.seed for image in generation.images]
        return Drawn([image.png for image in generation.images], seeds, generation.parameters.model_dump())

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        request = GenerationRequest(**fields)
        with connect(**self._options) as client:
            try:
                client.generate(request, timeout_s=after_s)
            except errors.DeadlineExceeded:
                return
        raise AssertionError("it was drawn before the client left")


class _HttpDoor:
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
        raise AssertionError("it was drawn before the client left")


class V1Door(_HttpDoor):
    """KServe V1, with the seed demo's body."""

    _PATH = f"/v1/models/{MODEL}:predict"

    def draw(self, fields: dict[str, Any]) -> Drawn:
        predictions = self._post(self._PATH, {"instances": [fields]})["predictions"]
        files = [base64.b64decode(entry["image"]["b64"]) for entry in predictions]
        return Drawn(files, [entry["seed"] for entry in predictions], predictions[0]["parameters"])

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        self._leave(self._PATH, {"instances": [fields]}, after_s)


class V2RestDoor(_HttpDoor):
    """The Open Inference Protocol over REST, in JSON."""

    _PATH = f"/v2/models/{MODEL}/infer"

    def draw(self, fields: dict[str, Any]) -> Drawn:
        answer = self._post(self._PATH, self._body(fields))
        tensors = {output["name"]: output["data"] for output in answer["outputs"]}
        files = [base64.b64decode(file) for file in tensors["png"]]
        return Drawn(files, tensors["seed"], json.loads(tensors["info"][0])["parameters"])

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        self._leave(self._PATH, self._body(fields), after_s)

    @staticmethod
    def _body(fields: dict[str, Any]) -> dict[str, Any]:
        inputs = [
            {"name": name, "shape": [1], "datatype": TENSORS[name].datatype, "data": [value]}
            for name, value in fields.items()
        ]
        return {"inputs": inputs, "outputs": [{"name": name} for name in ("png", "seed", "info")]}


class V2GrpcDoor:
    """The Open Inference Protocol over gRPC, by NVIDIA's client."""

    def __init__(self, url: str) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(url)

    def draw(self, fields: dict[str, Any]) -> Drawn:
        try:
            result = self._infer(fields, _TIMEOUT_S)
        except InferenceServerException as error:
            raise errors.from_wire(error.message() or "") or error from None
        files = [base64.b64decode(file) for file in result.as_numpy("png")]
        info = json.loads(result.as_numpy("info")[0])
        return Drawn(files, result.as_numpy("seed").tolist(), info["parameters"])

    def leave(self, fields: dict[str, Any], after_s: float) -> None:
        try:
            self._infer(fields, after_s)
        except InferenceServerException as error:
            if "DEADLINE" in str(error.status()).upper():
                return
            raise
        raise AssertionError("it was drawn before the client left")

    def _infer(self, fields: dict[str, Any], timeout: float) -> Any:
        inputs = []
        for name, value in fields.items():
            inputs.append(tritonclient.grpc.InferInput(name, [1], TENSORS[name].datatype))
            data = value.encode() if isinstance(value, str) else value
            inputs[-1].set_data_from_numpy(np.array([data], TENSORS[name].numpy))
        outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ("png", "seed", "info")]
        return self._client.infer(MODEL, inputs, outputs=outputs, client_timeout=timeout)


def _error(response: httpx.Response) -> AquatintError:
    """The error of an HTTP answer, whether in Triton's shape or in OpenAI's; its status must fit the table."""
    body = response.json()["error"]
    if isinstance(body, str):
        found = errors.from_wire(body)
    else:
        found = errors.from_wire(f"{body['code']}: {body['message']}")
        assert found is not None
        assert response.status_code == errors.mapping(found).http
    assert found is not None, response.text
    return found
