"""Errors over HTTP in OpenAI's shape, with the statuses of the one error table."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
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


class ErrorDetail(BaseModel):
    """One failure. ``code`` is the error's name in the error table, ``param`` the field at fault where there is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every failed request."""

    error: ErrorDetail


# What routers pass to FastAPI so that their OpenAPI document describes failures.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorResponse, "description": "The request failed"}
}


def error_body(error: AquatintError) -> ErrorResponse:
    """Describe an error as clients of OpenAI's API expect it."""
    message = str(error)
    field, colon, _ = message.partition(": ")
    named = isinstance(error, errors.InvalidRequest) and colon and " " not in field
    return _body(
        message,
        errors.mapping(error).http,
        param=field if named else None,
        code=type(error).__name__,
    )


def _body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> ErrorResponse:
    kind = _TYPES.get(status, "server_error")
    return ErrorResponse(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def error_response(error: AquatintError) -> JSONResponse:
    """Make the response to a failed request, with ``Retry-After`` or ``WWW-Authenticate`` where they apply."""
    headers = {}
    if isinstance(error, errors.Overloaded) and error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error).model_dump(), errors.mapping(error).http, headers)


async def _answer(_: Request, error: Exception) -> JSONResponse:
    return error_response(errors.internal(error))


def add_error_handler(app: FastAPI) -> None:
    """Make ``app`` answer our own errors with ``error_response``; others stay its own business."""
    app.add_exception_handler(AquatintError, _answer)


def install_error_handlers(app: FastAPI) -> None:
    """Make ``app`` answer every failure with an ``ErrorResponse``."""

    async def wrong_body(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return error_response(errors.from_validation_details(error.errors()))

    async def wrong_path(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = _body(str(error.detail), error.status_code)
        return JSONResponse(body.model_dump(), error.status_code, error.headers)

    add_error_handler(app)
    app.add_exception_handler(RequestValidationError, wrong_body)
    app.add_exception_handler(HTTPException, wrong_path)
    app.add_exception_handler(Exception, _answer)
