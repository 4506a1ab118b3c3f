"""The parameters an image was generated with, as answers show them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, create_model

from aquatint.contract.request import ResolvedRequest


def _parameters(name: str, *, exclude: Collection[str]) -> Any:
    fields: dict[str, Any] = {
        field: (info.annotation, info) for field, info in ResolvedRequest.model_fields.items() if field not in exclude
    }
    return create_model(name, __doc__="The effective parameters: every default filled in.", **fields)


if TYPE_CHECKING:
    EffectiveParameters = BaseModel
    PredictionParameters = BaseModel
else:
    EffectiveParameters = _parameters("EffectiveParameters", exclude=("preview_every",))
    # A prediction names its model beside its parameters.
    PredictionParameters = _parameters("PredictionParameters", exclude=("preview_every", "model"))
