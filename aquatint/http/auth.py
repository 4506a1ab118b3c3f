"""Authentication by bearer tokens, either a fixed list or JWTs checked against a JWKS, and rate limits."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import jwt
from fastapi import Request
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from aquatint.contract.errors import Overloaded, Unauthorized
from aquatint.settings import ApiSettings

_log = logging.getLogger("aquatint.auth")

ADMIN_SCOPE = "aquatint:admin"
_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"]


@dataclass(frozen=True)
class Caller:
    """Who sent the request. An admin sees and deletes everyone's images."""

    name: str
    is_admin: bool = False

    @property
    def sees(self) -> str | None:
        """The owner whose images this caller may list and delete; ``None`` for all."""
        return None if self.is_admin else self.name


LOCAL_CALLER = Caller("local", is_admin=True)
Authenticate = Callable[[str], Awaitable[Caller | None]]
CallerOf = Callable[[Request], Awaitable[Caller]]


class StaticTokens:
    """A fixed list of tokens by caller name, for small set-ups. The caller named ``admin`` is an admin."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self._tokens = {name: token.encode() for name, token in tokens.items()}

    async def __call__(self, token: str) -> Caller | None:
        """Find the caller with this token. Every token is compared, in constant time."""
        matches = [name for name, known in self._tokens.items() if hmac.compare_digest(known, token.encode())]
        return Caller(matches[0], matches[0] == "admin") if matches else None


class JwtTokens:
    """JWTs (RFC 7519) signed by a key of the JWKS at ``jwks_url``, which the operator sets; keys are cached."""

    def __init__(self, jwks_url: str, issuer: str | None, audience: str | None) -> None:
        self._keys = jwt.PyJWKClient(jwks_url, cache_keys=True, timeout=5)
        self._issuer = issuer
        self._audience = audience

    async def __call__(self, token: str) -> Caller | None:
        """Return the token's subject as the caller; ``aquatint:admin`` in ``scope`` makes it an admin."""
        try:
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, token)
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.PyJWKClientConnectionError as error:
            _log.warning("no token can be checked, the JWKS cannot be fetched: %s", error)
            return None
        except jwt.PyJWTError:
            return None
        return Caller(str(claims["sub"]), ADMIN_SCOPE in str(claims.get("scope", "")).split())


def authenticator(settings: ApiSettings) -> Authenticate | None:
    """Make the check that the settings ask for; ``None`` if they ask for none."""
    if settings.jwks_url is not None:
        return JwtTokens(settings.jwks_url, settings.jwt_issuer, settings.jwt_audience)
    if settings.tokens:
        return StaticTokens({name: token.get_secret_value() for name, token in settings.tokens.items()})
    return None


class RateLimiter:
    """Limits the requests of each caller in a moving window, such as ``120/minute``."""

    def __init__(self, rate: str) -> None:
        self._limit: RateLimitItem = parse(rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, caller: Caller) -> None:
        """Count a request. Raises ``Overloaded``."""
        if not await self._limiter.hit(self._limit, caller.name):
            window = await self._limiter.get_window_stats(self._limit, caller.name)
            wait_s = max(window.reset_time - time.time(), 1.0)
            raise Overloaded(f"more than {self._limit}", wait_s)


def caller_of(authenticate: Authenticate | None, limiter: RateLimiter | None) -> CallerOf:
    """Make a FastAPI dependency that finds a request's caller. It raises ``Unauthorized`` or ``Overloaded``."""

    async def caller(request: Request) -> Caller:
        found = LOCAL_CALLER
        if authenticate is not None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            checked = await authenticate(token.strip()) if scheme.lower() == "bearer" else None
            if checked is None:
                raise Unauthorized("a valid bearer token is required")
            found = checked
        if limiter is not None:
            await limiter(found)
        return found

    return caller
