"""KServe's V1 protocol with the body and answer of the seed demo: every instance is served, in order."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from aquatint.contract import request as requests
from aquatint.contract.errors import InvalidRequest
from aquatint.contract.generation import Generation
from aquatint.contract.image_generator import ImageGenerator
from aquatint.contract.request import GenerationRequest
from aquatint.http.auth import Caller, CallerOf

_MAX_INSTANCES = 32


class PredictBody(BaseModel):
    """``{"instances": [{"prompt": …}, …]}``; an instance has the fields of the request contract."""

    model_config = ConfigDict(extra="forbid")

    instances: list[dict[str, Any]] = Field(min_length=1, max_length=_MAX_INSTANCES)


def parse_instances(instances: list[dict[str, Any]], model: str) -> list[GenerationRequest]:
    """Validated requests, all of them before any is drawn. Raises ``InvalidRequest`` naming the instance."""
    found = []
    for index, instance in enumerate(instances):
        try:
            found.append(requests.parse({**instance, "model": model}))
        except InvalidRequest as error:
            raise InvalidRequest(f"instances.{index}.{error}") from None
    return found


def predictions(model: str, generation: Generation) -> list[dict[str, Any]]:
    """The answer to one instance: one prediction per picture."""
    return [
        {
            "model_name": model,
            "prompt": generation.parameters.prompt,
            "image": {"format": "PNG", "b64": base64.b64encode(image.png).decode()},
            "seed": image.seed,
            "parameters": generation.parameters.model_dump(exclude={"preview_every", "model"}),
        }
        for image in generation.images
    ]


def predict_v1(engine: ImageGenerator, caller: CallerOf) -> APIRouter:
    """``POST /v1/models/{model}:predict``."""
    router = APIRouter(tags=["KServe V1"])

    @router.post("/v1/models/{model}:predict")
    async def predict(model: str, body: PredictBody, _: Caller = Depends(caller)) -> dict[str, list[dict[str, Any]]]:
        """Draw every instance."""
        wanted = parse_instances(body.instances, model)
        generations = await _draw_all(engine, wanted)
        return {"predictions": [entry for drawn in generations for entry in predictions(model, drawn)]}

    return router


async def _draw_all(engine: ImageGenerator, wanted: list[GenerationRequest]) -> list[Generation]:
    """All of them at once; if one fails the others stop."""
    tasks = [asyncio.ensure_future(engine.generate(one)) for one in wanted]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
