"""KServe's V1 protocol with the request and response of the seed demo: every instance is served, in order."""

import asyncio
import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from aquatint.contract import request as requests
from aquatint.contract.errors import InvalidRequest
from aquatint.contract.generation import Generation
from aquatint.contract.image_generator import ImageGenerator
from aquatint.contract.request import GenerationRequest
from aquatint.http.auth import Caller, CallerOf
from aquatint.http.errors import ERROR_RESPONSES
from aquatint.http.parameters import PredictionParameters

_MAX_INSTANCES = 32


class PredictBody(BaseModel):
    """``{"instances": [{"prompt": …}, …]}``; an instance has the fields of the request contract."""

    model_config = ConfigDict(extra="forbid")

    instances: list[dict[str, Any]] = Field(min_length=1, max_length=_MAX_INSTANCES)


class PredictedImage(BaseModel):
    """A PNG file in base64."""

    format: Literal["PNG"] = "PNG"
    b64: str


class Prediction(BaseModel):
    """One image of one instance."""

    model_name: str
    prompt: str
    image: PredictedImage
    seed: int | None
    parameters: PredictionParameters


class PredictResponse(BaseModel):
    """All images of all instances, in the order of the instances."""

    predictions: list[Prediction]


def parse_instances(instances: list[dict[str, Any]], model: str) -> list[GenerationRequest]:
    """Validate all instances before any is generated. Raises ``InvalidRequest`` naming the instance."""
    found = []
    for index, instance in enumerate(instances):
        try:
            found.append(requests.parse({**instance, "model": model}))
        except InvalidRequest as error:
            raise InvalidRequest(f"instances.{index}.{error}") from None
    return found


def predictions(model: str, generation: Generation) -> list[Prediction]:
    """Make the predictions of one instance: one per image."""
    parameters = PredictionParameters.model_validate(generation.parameters.model_dump())
    return [
        Prediction(
            model_name=model,
            prompt=generation.parameters.prompt,
            image=PredictedImage(b64=base64.b64encode(image.png).decode()),
            seed=image.seed,
            parameters=parameters,
        )
        for image in generation.images
    ]


def predict_v1(engine: ImageGenerator, caller: CallerOf) -> APIRouter:
    """Route ``POST /v1/models/{model}:predict``."""
    router = APIRouter(tags=["KServe V1"], responses=ERROR_RESPONSES)

    @router.post("/v1/models/{model}:predict")
    async def predict(model: str, body: PredictBody, _: Annotated[Caller, Depends(caller)]) -> PredictResponse:
        """Generate the images of every instance."""
        wanted = parse_instances(body.instances, model)
        generations = await _generate_all(engine, wanted)
        return PredictResponse(predictions=[entry for done in generations for entry in predictions(model, done)])

    return router


async def _generate_all(engine: ImageGenerator, wanted: list[GenerationRequest]) -> list[Generation]:
    """Run all of them at once; if one fails the others stop."""
    tasks = [asyncio.ensure_future(engine.generate(one)) for one in wanted]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
