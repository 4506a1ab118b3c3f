"""JWTs against a real JWKS endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI

from aquatint.http.auth import Caller, JwtTokens, authenticator
from aquatint.settings import ApiSettings
from tests.serving import served

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def tokens() -> AsyncIterator[JwtTokens]:
    app = FastAPI()
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))

    @app.get("/jwks")
    def jwks() -> dict[str, Any]:
        return {"keys": [{**public, "kid": "one", "use": "sig", "alg": "RS256"}]}

    async with served(app) as url:
        settings = ApiSettings(jwks_url=f"{url}/jwks", jwt_issuer="issuer", jwt_audience="aquatint")
        made = authenticator(settings)
        assert isinstance(made, JwtTokens)
        yield made


def token(key: Any = KEY, algorithm: str = "RS256", **claims: Any) -> str:
    standard = {"sub": "alice", "iss": "issuer", "aud": "aquatint", "exp": time.time() + 60}
    merged = {name: value for name, value in {**standard, **claims}.items() if value is not None}
    return jwt.encode(merged, key, algorithm=algorithm, headers={"kid": "one"})


async def test_good_tokens(tokens: JwtTokens) -> None:
    assert await tokens(token()) == Caller("alice")
    assert await tokens(token(scope="openid aquatint:admin")) == Caller("alice", is_admin=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": time.time() - 60},
        {"exp": None},
        {"iss": "somebody"},
        {"aud": "another service"},
        {"sub": None},
        {"key": OTHER},
        {"key": "x" * 32, "algorithm": "HS256"},
        {"key": None, "algorithm": "none"},
    ],
    ids=["expired", "no end", "issuer", "audience", "no subject", "another key", "HMAC", "unsigned"],
)
async def test_wrong_tokens(tokens: JwtTokens, wrong: dict[str, Any]) -> None:
    assert await tokens(token(**wrong)) is None


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "é" * 10])
async def test_rubbish(tokens: JwtTokens, text: str) -> None:
    assert await tokens(text) is None
