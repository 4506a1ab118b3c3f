"""Kubeflow's local runner: a pipeline on this machine, every step in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kfp import local

from aquatint.contract.errors import Internal
from aquatint_pipelines import pipelines


class StepFailed(Internal):
    """A step of a pipeline failed; its log says why."""


def run(name: str, parameters: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run a pipeline; return its outputs by name, artifacts as their paths.

    Raises ``InvalidRequest`` for an unknown pipeline or parameter, ``StepFailed`` when a step fails: which one, and
    why, is in its log above.
    """
    pipeline = pipelines.find(name, parameters)
    root.mkdir(parents=True, exist_ok=True)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        done = pipeline(**parameters)
    except (RuntimeError, ValueError) as error:
        raise StepFailed(f"{name} failed: {error}") from error
    return {key: getattr(value, "path", value) for key, value in done.outputs.items()}
