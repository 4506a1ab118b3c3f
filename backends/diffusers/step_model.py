"""The torch transformer as a Triton component model. Only importable inside a Triton Python backend process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aquatint_backends.batching import BatchedBackend
from aquatint_backends.diffusers.step_engine import SKIP, StepEngine, StepSettings
from numpy.typing import NDArray


class StepModel(BatchedBackend):
    """The component model of a repository exported with ``--engine torch``."""

    def __init__(self, folder: Path, config: dict[str, Any], model: str) -> None:
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        parameters = {key: value for key, value in parameters.items() if key in StepSettings.model_fields}
        self._engine = StepEngine(folder, StepSettings.from_parameters(parameters))
        self.inputs = [port["name"] for port in config["input"]]
        self.outputs = ["noise_pred"]
        self.scalars = {"timestep", SKIP}
        self.count_usage(model)

    def run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """One call for the whole batch."""
        return [self._engine(feed)]
