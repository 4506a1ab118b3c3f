"""Bring your own pipeline: a stream front that draws with diffusers in this process.

The model parameter ``checkpoint`` is a folder, relative to the version folder or absolute, or a hub id; ``DTYPE``
and ``ENABLE_…`` are read from the environment, or as parameters ``dtype``, ``low_cpu_mem`` and so on.
"""

from __future__ import annotations

import json
from pathlib import Path

import triton_python_backend_utils as pb_utils
from aquatint_backends.diffusers.pipeline import DiffusersPipeline
from aquatint_backends.diffusers.placement import PlacementSettings

from aquatint.errors import AquatintError
from aquatint.front.base import Front
from aquatint.settings import FrontSettings

_SUFFIX = "_stream"


class TritonPythonModel(Front):
    """The decoupled front that holds the weights; ``text_to_image_relay`` serves unary requests over it."""

    def open_drawer(self, args: dict[str, str], settings: FrontSettings) -> DiffusersPipeline:
        """Load the pipeline."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        known = {name: parameters[name] for name in PlacementSettings.model_fields if name in parameters}
        version = Path(args["model_repository"]) / args["model_version"]
        inside = version / parameters["checkpoint"]
        source = str(inside) if inside.is_dir() else parameters["checkpoint"]
        name = args["model_name"].removesuffix(_SUFFIX)
        try:
            return DiffusersPipeline(source, name, PlacementSettings(**known))
        except AquatintError as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from None
