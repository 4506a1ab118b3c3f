"""The checkpoint's own transformer in torch."""

from __future__ import annotations

from aquatint_backends.denoiser.engines import Place
from aquatint_backends.diffusers.step_engine import StepEngine, StepSettings, component_folder


def open_engine(place: Place) -> StepEngine:
    """Load the weights onto the best device. Raises ``ModelRejected`` where they are missing."""
    known = {name: value for name, value in place.parameters.items() if name in StepSettings.model_fields}
    return StepEngine(component_folder(place.version), StepSettings.from_parameters(known))
