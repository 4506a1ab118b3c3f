"""A Triton python-based backend: text to image, unary or decoupled, over the component models of a repository.

With the parameter ``relay`` it passes its requests on to the decoupled model ``<name>_stream`` instead, for engines
that run a whole pipeline in that one process. Inputs and outputs come from the request contract, so a
``config.pbtxt`` lists none.
"""

from __future__ import annotations

import json
from typing import Any

from aquatint_backends.text_to_image.base import TextToImageModel
from aquatint_backends.text_to_image.components import ComponentsModel
from aquatint_backends.text_to_image.configuration import complete
from aquatint_backends.text_to_image.relay import RelayModel


class TritonPythonModel:
    """Either kind of model, by the parameters of its configuration."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the inputs and outputs of the request contract."""
        return complete(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare to generate; called once by Triton."""
        relays = "relay" in json.loads(args["model_config"]).get("parameters", {})
        self._model: TextToImageModel = RelayModel() if relays else ComponentsModel()
        self._model.initialize(args)

    def execute(self, requests: list[Any]) -> None:
        """Take requests; the answers follow through their response senders."""
        self._model.execute(requests)

    def finalize(self) -> None:
        """Stop the requests in flight; called once by Triton."""
        self._model.finalize()
