"""Server-sent events in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_SCHEMAS = "#/components/schemas/{model}"


def event_stream(*events: type[BaseModel]) -> dict[str, Any]:
    """Describe a stream of server-sent events whose data are these models, for FastAPI's ``responses``.

    Models inside them must be part of another response, from which FastAPI makes the document's components.
    """
    schemas = [event.model_json_schema(mode="serialization", ref_template=_SCHEMAS) for event in events]
    for schema in schemas:
        schema.pop("$defs", None)
    return {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"anyOf": schemas}}}}
