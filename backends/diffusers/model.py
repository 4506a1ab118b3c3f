"""Bring your own pipeline: a decoupled model that runs a whole ``DiffusionPipeline`` in this process.

The parameter ``checkpoint`` is a folder, relative to the version folder or absolute, or a hub id; ``DTYPE`` and
``ENABLE_…`` are read from the environment, or as parameters ``dtype``, ``low_cpu_mem`` and so on.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from aquatint_backends.diffusers.pipeline import DiffusersPipeline
from aquatint_backends.diffusers.placement import PlacementSettings
from aquatint_backends.text_to_image.base import TextToImageModel
from aquatint_backends.text_to_image.configuration import complete

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError
from aquatint.settings import TextToImageSettings

_SUFFIX = "_stream"


class TritonPythonModel(TextToImageModel):
    """Holds the weights; the unary ``text_to_image`` model relays requests to it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs of the request contract."""
        return complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights; called once by Triton."""
        # Triton copies what its Python processes write to stderr into its own log.
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("aquatint").setLevel(logging.INFO)
        try:
            super().initialize(args)
        except AquatintError as error:
            raise pb_utils.TritonModelException(errors.to_wire(error)) from None

    def open_pipeline(self, args: dict[str, str], settings: TextToImageSettings) -> DiffusersPipeline:
        """Load the pipeline."""
        parameters = _parameters(args)
        known: dict[str, Any] = {
            name: parameters[name] for name in PlacementSettings.model_fields if name in parameters
        }
        version = Path(args["model_repository"]) / args["model_version"]
        inside = version / parameters["checkpoint"]
        source = str(inside) if inside.is_dir() else parameters["checkpoint"]
        return DiffusersPipeline(source, args["model_name"].removesuffix(_SUFFIX), PlacementSettings(**known))


def _parameters(args: dict[str, str]) -> dict[str, str]:
    config = json.loads(args["model_config"])
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
