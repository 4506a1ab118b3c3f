"""The request contract's fields as other layers need them: as tensors, and as function parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any

from pydantic import Field
from pydantic.fields import FieldInfo

from aquatint.contract.request import GenerationRequest, TensorType


def _tensor_types() -> dict[str, TensorType]:
    found = {}
    for name, field in GenerationRequest.model_fields.items():
        for each in field.metadata:
            if isinstance(each, TensorType):
                found[name] = each
    return found


# One value of shape ``(1,)`` each, named like the field.
TENSORS = _tensor_types()


def is_required(name: str) -> bool:
    """Return whether a request must have this field."""
    return GenerationRequest.model_fields[name].is_required()


def parameters(
    exclude: Collection[str] = (), annotate: Callable[[str, Any], Any] = lambda name, annotation: annotation
) -> list[inspect.Parameter]:
    """Make function parameters from the fields, with their types, limits, help and defaults.

    ``annotate`` may replace a field's annotation.
    """
    found = []
    for name, field in GenerationRequest.model_fields.items():
        if name not in exclude:
            annotation = annotate(name, Annotated[field.annotation, field])
            default = inspect.Parameter.empty if field.is_required() else field.default
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            found.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
    return found


def model_fields(names: Collection[str], *, optional: bool = False) -> dict[str, Any]:
    """Define some of the fields for pydantic's ``create_model``, with ``None`` as the default if ``optional``."""
    return {name: _definition(GenerationRequest.model_fields[name], optional=optional) for name in names}


def _definition(field: FieldInfo, *, optional: bool) -> Any:
    if not optional:
        return field.annotation, field
    kind: Any = field.annotation
    return (Annotated[kind | None, *field.metadata, Field(description=field.description)], None)


def take_fields(function: Callable[..., Any], fields: list[inspect.Parameter]) -> None:
    """Show ``fields`` in place of a function's ``**fields`` to whatever reads its signature, such as Typer."""
    signature = inspect.signature(function, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD]
    positional = [each for each in own if each.kind != each.KEYWORD_ONLY]
    keyword = [each for each in own if each.kind == each.KEYWORD_ONLY]
    shown = [*positional, *fields, *keyword]
    # inspect reads this attribute (PEP 362), which the type of a callable does not declare.
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in shown}
    function.__annotations__["return"] = signature.return_annotation
