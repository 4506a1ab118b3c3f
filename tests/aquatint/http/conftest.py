"""The whole HTTP API over the fake engine, on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from aquatint.http import health, image_files, images_api, install_error_handlers, predict_v1
from aquatint.http.auth import LOCAL_CALLER, RateLimiter, StaticTokens, caller_of
from aquatint.http.disconnect import CancelOnDisconnect
from aquatint.http.guard import BodyLimit, HostOriginGuard
from aquatint.images import ImageStore
from aquatint.storage import FileObjects
from aquatint.testing import FakeGenerator
from tests.serving import served

TOKENS = {"alice": "alice-token", "bob": "bob-token", "admin": "admin-token"}
assert LOCAL_CALLER.is_admin


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


@pytest.fixture
def engine() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(FileObjects(tmp_path), b"k" * 32, "http://public")


@pytest.fixture
def protected() -> bool:
    """Whether tokens are needed; a test overrides it by parametrization."""
    return False


@pytest.fixture
def app(engine: FakeGenerator, store: ImageStore, protected: bool) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    authenticate = StaticTokens(TOKENS) if protected else None
    limited = caller_of(authenticate, RateLimiter("20/minute"))
    app.include_router(images_api(engine, limited, store))
    app.include_router(predict_v1(engine, limited))
    app.include_router(image_files(store, caller_of(authenticate, None)))
    app.include_router(health({"store": store.check}))
    app.add_middleware(CancelOnDisconnect, prefixes=["/v1/"])
    app.add_middleware(BodyLimit, max_bytes=10_000)
    app.add_middleware(HostOriginGuard, hosts=["public"], origins=["https://chat.example"])
    return app


@pytest.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    async with served(app) as base_url:
        yield base_url


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url) as client:
        yield client
