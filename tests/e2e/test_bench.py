"""``aquatint bench``, with few requests, against the real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from aquatint_benchmarks.bench import PEER

from tests.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_one_command_measures_everything(tmp_path: Path) -> None:
    """The numbers of so few requests mean nothing; that every load got through and was counted does."""
    command: list[str | Path] = [Path(sys.executable).parent / "aquatint", "bench", "--engine=onnx", "--per-client=2"]
    command += ["--clients=1", "--clients=4", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    loads = {(row["engine"], row["load"]) for row in found["rows"]}
    assert (PEER, "closed loop") in loads
    assert {load for engine, load in loads if engine == "onnx"} >= {
        "closed loop",
        "closed loop, streamed",
        "Poisson at 50% of its most",
        "mixed steps: 8, 28, 50",
        "mixed sizes: 32, 64, 96 pixels",
        "Poisson at 80%, streamed, 30% leave half way",
    }
    assert all(row["images_per_s"] > 0 for row in found["rows"])
    together = next(row for row in found["rows"] if row["engine"] == "onnx" and row["clients"] == 4)
    assert together["rows_per_batch"] > 3
    assert [each["replicas"] for each in found["validations"]] == [1, 2]
    assert "| engine | load |" in (tmp_path / "bench.md").read_text()
    assert len(list(tmp_path.glob("*.png"))) == 3
