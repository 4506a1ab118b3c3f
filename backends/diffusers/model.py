"""Diffusers inside Triton, in one of two roles.

Bring your own pipeline: a decoupled model that runs a whole ``DiffusionPipeline`` in this process. The parameter
``checkpoint`` is a folder, relative to the version folder or absolute, or a hub id; ``DTYPE`` and ``ENABLE_…`` are read
from the environment, or as parameters ``dtype``, ``low_cpu_mem`` and so on.

One component: with the parameter ``component``, the transformer of an exported repository in torch, compiled on a GPU.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from aquatint_backends.diffusers.pipeline import DiffusersPipeline
from aquatint_backends.diffusers.placement import PlacementSettings
from aquatint_backends.diffusers.step_engine import component_folder
from aquatint_backends.diffusers.step_model import StepModel
from aquatint_backends.text_to_image.base import TextToImageModel
from aquatint_backends.text_to_image.configuration import complete

from aquatint.contract.errors import AquatintError
from aquatint.settings import TextToImageSettings

_SUFFIX = "_stream"


class PipelineModel(TextToImageModel):
    """The decoupled model that holds the weights; ``text_to_image`` relays unary requests to it."""

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


class TritonPythonModel:
    """Either role, by the model's parameters."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs of the request contract, but for a component."""
        if "component" in auto_complete_model_config.as_dict().get("parameters", {}):
            return auto_complete_model_config
        return complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights; called once by Triton."""
        self._model: Any
        # Triton takes what its Python processes write to stderr into its own log.
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("aquatint").setLevel(logging.INFO)
        try:
            if "component" in _parameters(args):
                folder = component_folder(Path(args["model_repository"]) / args["model_version"])
                self._model = StepModel(folder, json.loads(args["model_config"]), args["model_name"])
            else:
                self._model = PipelineModel()
                self._model.initialize(args)
        except AquatintError as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from None

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Serve requests."""
        responses: list[Any] | None = self._model.execute(requests)
        return responses

    def finalize(self) -> None:
        """Stop; called once by Triton."""
        if isinstance(self._model, PipelineModel):
            self._model.finalize()


def _parameters(args: dict[str, str]) -> dict[str, str]:
    config = json.loads(args["model_config"])
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
