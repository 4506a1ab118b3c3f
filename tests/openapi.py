"""What an app's OpenAPI document leaves undescribed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

_BODILESS = {"204", "304", "416"}


def undescribed(app: FastAPI) -> list[str]:
    """List the endpoints that the document lacks and the responses whose content it does not describe."""
    document = app.openapi()
    missing = [
        f"{method} {context.path}"
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute)
        for method in context.methods or ()
        if method != "HEAD" and method.lower() not in document["paths"].get(context.path_format, {})
    ]
    return missing + list(_without_schema(document))


def _without_schema(document: dict[str, Any]) -> Iterator[str]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                where = f"{method.upper()} {path} {status}"
                if status not in _BODILESS and not response.get("content"):
                    yield where
                for media_type, content in response.get("content", {}).items():
                    if not _is_described(document, content.get("schema", {})):
                        yield f"{where} {media_type}"


def _is_described(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Return whether a schema and all it refers to exist, and it is neither anything nor any object."""
    refs = list(_refs(schema))
    schemas = document["components"]["schemas"]
    if any(ref.rpartition("/")[2] not in schemas for ref in refs):
        return False
    resolved = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return (
        bool(resolved) and resolved.get("additionalProperties") is not True and "HTTPValidationError" not in str(refs)
    )


def _refs(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from ([schema["$ref"]] if "$ref" in schema else [])
        for value in schema.values():
            yield from _refs(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _refs(value)
