"""Errors over HTTP in OpenAI's shape, by the one table."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(error: AquatintError) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``; ``code`` is the error's name in the table."""
    message = str(error)
    field, colon, _ = message.partition(": ")
    named = isinstance(error, errors.InvalidRequest) and colon and " " not in field
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(errors.mapping(error).http, "server_error"),
            "param": field if named else None,
            "code": type(error).__name__,
        }
    }


def error_response(error: AquatintError) -> JSONResponse:
    """The answer to a failed request."""
    headers = {}
    if isinstance(error, errors.Overloaded) and error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), errors.mapping(error).http, headers)


async def _answer(_: Request, error: Exception) -> JSONResponse:
    return error_response(errors.internal(error))


def add_error_handler(app: FastAPI) -> None:
    """Have our own errors answered by ``error_response``, and leave the others to ``app``."""
    app.add_exception_handler(AquatintError, _answer)


def install_error_handlers(app: FastAPI) -> None:
    """Have every failure of ``app`` answered by ``error_response``."""

    async def wrong_body(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(errors.from_validation_details(error.errors()))

    async def wrong_path(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = {
            "error": {
                "message": str(error.detail),
                "type": _TYPES.get(error.status_code, "server_error"),
                "param": None,
                "code": None,
            }
        }
        return JSONResponse(body, error.status_code, error.headers)

    add_error_handler(app)
    app.add_exception_handler(RequestValidationError, wrong_body)
    app.add_exception_handler(HTTPException, wrong_path)
    app.add_exception_handler(Exception, _answer)
