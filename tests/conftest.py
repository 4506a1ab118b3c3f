"""Checkpoints with random weights, and the model repository the e2e tests serve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.checkpoints"]

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "pipelines" / "models" / "mini"


@pytest.fixture(scope="session")
def mini_checkpoint() -> Path:
    """The checkpoint the repository ships."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def mini_repository() -> Path:
    """The shipped checkpoint, exported by ``make test-repository``, and not what ``make run`` serves."""
    path = Path(os.environ.get("AQUATINT_TEST_REPOSITORY", ROOT / "build" / "test" / "repository"))
    assert (path / "manifest.json").is_file(), "run 'make test-repository' first"
    return path
