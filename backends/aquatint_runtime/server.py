"""Serve a diffusers pipeline on KServe. KServe's own flags (``--http_port`` …) apply."""

from __future__ import annotations

import logging
import os
import threading

from aquatint_backends.aquatint_runtime.inference import TextToImage
from aquatint_backends.aquatint_runtime.local_generator import LocalGenerator
from aquatint_backends.aquatint_runtime.settings import RuntimeSettings
from aquatint_backends.aquatint_runtime.source import resolve
from aquatint_backends.diffusers.pipeline import DiffusersPipeline
from aquatint_backends.diffusers.placement import PlacementSettings
from kserve import ModelServer
from kserve.model_server import app

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError
from aquatint.http import images_api, predict_v1, triton_http
from aquatint.http.auth import caller_of
from aquatint.http.disconnect import CancelOnDisconnect
from aquatint.http.errors import add_error_handler
from aquatint.http.guard import BodyLimit
from aquatint.settings import read_settings

_log = logging.getLogger("aquatint.runtime")


def serve() -> None:
    """Serve, become ready once the pipeline is loaded, and end if it cannot be loaded."""
    # KServe sets up only its own loggers.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    logging.getLogger("aquatint").setLevel(logging.INFO)
    settings, placement = _settings()
    engine = LocalGenerator(1 + settings.max_queued, settings.request_timeout_s)
    model = TextToImage(settings.model_name, engine)
    # KServe leaves authentication to the proxy before it.
    everyone = caller_of(None, None)
    app.include_router(images_api(engine, everyone))
    app.include_router(predict_v1(engine, everyone))
    app.include_router(triton_http(engine))
    add_error_handler(app)
    app.add_middleware(CancelOnDisconnect, prefixes=["/v1/", "/v2/"])
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    server = ModelServer()
    # Registered by hand, because it is not ready yet and KServe's start() would refuse it.
    server.register_model(model)
    threading.Thread(target=_load, args=(settings, placement, engine, model), daemon=True).start()
    server.start([])


def _settings() -> tuple[RuntimeSettings, PlacementSettings]:
    try:
        return read_settings(RuntimeSettings), read_settings(PlacementSettings)
    except AquatintError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


def _load(settings: RuntimeSettings, placement: PlacementSettings, engine: LocalGenerator, model: TextToImage) -> None:
    try:
        engine.load(DiffusersPipeline(resolve(settings.model_id), settings.model_name, placement))
        model.load()
    # Whatever fails, a runtime that will never be ready must end and say why. It has served no request yet.
    except Exception as error:
        _log.error(errors.to_wire(errors.internal(error)))
        logging.shutdown()
        os._exit(1)
