"""Checkpoints with random weights, and the model repository the e2e tests serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "pipelines" / "models" / "mini"


# The slowest files, slowest first; workers get whole files, and none of these must come last.
_LONGEST = (
    "export/test_export.py",
    "test_readme.py",
    "e2e/test_page.py",
    "e2e/test_contract.py",
    "e2e/test_wheel.py",
    "export/test_full_size.py",
    "e2e/test_tensorrt.py",
    "e2e/test_server.py",
    "e2e/test_text_to_image.py",
    "e2e/test_run.py",
    "e2e/test_chat.py",
    "e2e/test_mcp.py",
    "e2e/test_deploy.py",
    "e2e/test_s3.py",
    "e2e/test_monitoring.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def mini_checkpoint() -> Path:
    """Return the checkpoint the repository ships."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def mini_repository() -> Path:
    """Return the shipped checkpoint, exported by ``make test-repository``; not what ``make run`` serves."""
    path = Path(os.environ.get("AQUATINT_TEST_REPOSITORY", ROOT / "build" / "test" / "repository"))
    assert (path / "manifest.json").is_file(), "run 'make test-repository' first"
    return path


# Fixtures import what makes checkpoints themselves: it needs torch, which takes longer to load than most tests to run.


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Make a function that writes a small Stable Diffusion 3 checkpoint with random weights."""
    from tests.checkpoints import maker  # noqa: PLC0415

    return maker(tmp_path)


@pytest.fixture
def make_unet_checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Make a function that writes a small Stable Diffusion 1.5 or XL checkpoint with random weights."""
    from tests.checkpoints import unet_maker  # noqa: PLC0415

    return unet_maker(tmp_path)
