"""The OpenAPI document describes every response of the HTTP API."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from aquatint.http import triton_http
from aquatint.testing import FakeGenerator
from tests.openapi import undescribed


def test_every_response_is_described(app: FastAPI, engine: FakeGenerator) -> None:
    app.include_router(triton_http(engine))
    assert undescribed(app) == []


@pytest.mark.parametrize("kind", [None, dict[str, Any], dict])
def test_an_untyped_response_is_found(app: FastAPI, kind: Any) -> None:
    @app.get("/untyped", response_model=kind)
    def untyped() -> Any:
        return {}

    assert undescribed(app) == ["GET /untyped 200 application/json"]


def test_a_hidden_endpoint_is_found(app: FastAPI) -> None:
    @app.get("/hidden", include_in_schema=False)
    def hidden() -> dict[str, int]:
        return {}

    assert undescribed(app) == ["GET /hidden"]
