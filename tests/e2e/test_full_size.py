"""The sizes of SD3.5 Medium through a real Triton, by an engine that only takes its time."""

from __future__ import annotations

from pathlib import Path

import pytest
from aquatint_benchmarks import full_size

from aquatint.client import connect
from aquatint.server import TritonServer
from tests.e2e.conftest import FREE_PORTS

pytestmark = pytest.mark.e2e


def test_images_of_the_real_size(mini_repository: Path, tmp_path: Path) -> None:
    repository = full_size.write_repository(mini_repository, tmp_path / "repository", step_ms=1.0)
    with TritonServer(repository, FREE_PORTS, verify=False) as server, connect(url=server.grpc_url) as client:
        generation = client.generate("a fox", seed=1, num_inference_steps=2)
        assert generation.images[0].pixels.shape == (1024, 1024, 3)
        (info,) = client.models()
        assert (info.default_width, info.max_size) == (1024, 1440)


def test_what_is_lost_is_measured(mini_repository: Path, tmp_path: Path) -> None:
    """Of steps that take no time nearly all is lost, of long ones little: the figure moves with what it measures."""
    measured = {}
    for step_ms in (0.0, 100.0):
        rows = full_size.run(mini_repository, tmp_path / f"{step_ms}", step_ms=step_ms, clients=[1, 2], steps=3)
        measured[step_ms] = {row.clients: row for row in rows}
    assert measured[0.0][1].lost > 0.5 > measured[100.0][1].lost
    assert measured[100.0][1].rows_per_batch == 2
    assert measured[100.0][2].rows_per_batch > 2
    assert "| 100 | 2 |" in full_size.markdown(measured[100.0].values())
