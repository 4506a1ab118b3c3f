"""The torch transformer against diffusers' own, on the CPU: padding, skipped layers, compiled, in other precisions."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aquatint_backends.diffusers.step_engine import StepEngine, StepSettings, component_folder
from diffusers import SD3Transformer2DModel
from numpy.typing import NDArray

from aquatint.contract.errors import AquatintError, DependencyMissing, ModelRejected
from aquatint.diffusion import families, samplers
from aquatint.diffusion.in_flight import Flight, InFlight
from aquatint.diffusion.samplers.flow_match import FlowMatchConfig
from aquatint.diffusion.served_model import SkipLayerGuidance
from aquatint.diffusion.slot import Slot, transformer_inputs
from tests.checkpoints import MakeCheckpoint

BUCKETS = (1, 4, 8)


@pytest.fixture
def folder(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(num_layers=3) / "transformer"


def feed(rows: int, skip: list[int] | None = None, side: int = 8) -> dict[str, NDArray[Any]]:
    chance = np.random.default_rng(rows)
    arrays = {
        "hidden_states": chance.standard_normal((rows, 16, side, side)),
        "timestep": chance.uniform(0, 1000, rows),
        "encoder_hidden_states": chance.standard_normal((rows, 24, 64)),
        "pooled_projections": chance.standard_normal((rows, 64)),
    }
    if skip is not None:
        arrays["skip_layers"] = np.array(skip)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@torch.no_grad()
def reference(folder: Path, rows: dict[str, NDArray[Any]], layers: list[int] | None = None) -> NDArray[np.float32]:
    model = SD3Transformer2DModel.from_pretrained(folder).eval()
    tensors = {name: torch.from_numpy(array) for name, array in rows.items() if name != "skip_layers"}
    output: NDArray[np.float32] = model(**tensors, skip_layers=layers, return_dict=False)[0].numpy()
    return output


@dataclass
class Kept:
    """Listens for the latents alone."""

    latents: NDArray[np.float32] | None = None

    def has_gone(self) -> bool:
        return False

    def progressed(self, evaluated: int, evaluations: int, heading_for: NDArray[np.float32] | None) -> None:
        pass

    def finished(self, latents: NDArray[np.float32], statistics: dict[str, float]) -> None:
        self.latents = latents

    def failed(self, error: AquatintError) -> None:
        raise error


def make_slot(seed: int, skip_layers: SkipLayerGuidance | None) -> Slot:
    rows = feed(2 + 2 * seed)
    images = 1 + seed
    return Slot(
        family=families.registry()["sd3"],
        latents=rows["hidden_states"][:images],
        conditioning={name: rows[name] for name in ("encoder_hidden_states", "pooled_projections")},
        sampler=samplers.make("heun", FlowMatchConfig(shift=3.0), num_inference_steps=3 + seed, image_seq_len=16),
        guidance_scale=2.0,
        skip_layers=skip_layers,
        num_inference_steps=3 + seed,
    )


def call(engine: StepEngine, rows: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    return engine.arrays.to_host(engine(rows))


def error(out: NDArray[np.float32], ref: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9])
def test_padding_changes_nothing(folder: Path, rows: int) -> None:
    """Even beyond the largest bucket."""
    engine = StepEngine(folder, StepSettings(buckets=BUCKETS))
    wanted = feed(rows)
    assert error(call(engine, wanted), reference(folder, wanted)) < 1e-5


def test_rows_skip_layers_for_themselves(folder: Path) -> None:
    engine = StepEngine(folder, StepSettings(buckets=BUCKETS, skip_layers=(0, 1)))
    wanted = feed(4, skip=[0, 1, 0, 1])
    whole, skipped = reference(folder, wanted), reference(folder, wanted, [0, 1])
    out = call(engine, wanted)
    assert error(out[[0, 2]], whole[[0, 2]]) < 1e-5
    assert error(out[[1, 3]], skipped[[1, 3]]) < 1e-5
    assert error(skipped, whole) > 1e-2


@pytest.mark.slow
# torch's own compiler uses what torch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled(folder: Path) -> None:
    engine = StepEngine(folder, StepSettings(buckets=(4,), compile="true"))
    assert "torch.compile" in engine.description
    for rows in (3, 4):
        wanted = feed(rows)
        assert error(call(engine, wanted), reference(folder, wanted)) < 1e-4


def test_bfloat16_within_its_bound(folder: Path) -> None:
    engine = StepEngine(folder, StepSettings(dtype="bfloat16"))
    wanted = feed(2)
    assert error(call(engine, wanted), reference(folder, wanted)) < 8e-2


def test_fp8_says_what_is_missing(folder: Path) -> None:
    # torchao is installed separately (see the Makefile): where diffusers finds it, it imports it, with warnings.
    assert importlib.util.find_spec("torchao") is None
    with pytest.raises(DependencyMissing, match="pip install torchao"):
        StepEngine(folder, StepSettings(fp8=True))


@pytest.mark.slow
def test_fp8_prints_its_psnr(mini_checkpoint: Path) -> None:
    """The shipped transformer with FP8 weights, in a process that has torchao."""
    program = (
        "import sys; from pathlib import Path\n"
        "from aquatint_backends.diffusers.step_engine import StepEngine, StepSettings\n"
        "print(StepEngine(Path(sys.argv[1]), StepSettings(fp8=True, dtype='bfloat16')).description)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sys.prefix) / "torchao")}
    command = [sys.executable, "-c", program, str(mini_checkpoint / "transformer")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"FP8 linear layers \(.*\): ([0-9.]+) dB against torch.bfloat16", done.stdout)
    assert found, done.stdout
    # 50 dB measured.
    assert float(found[1]) > 35.0


def test_parameters_are_text() -> None:
    parameters = {"buckets": "1,2", "skip_layers": "", "compile": "false", "fp8": "true", "component": "transformer"}
    settings = StepSettings.from_parameters(parameters)
    assert settings == StepSettings(buckets=(1, 2), compile="false", fp8=True)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="weights are missing"):
        component_folder(tmp_path)


@pytest.mark.parametrize("skip_layers", [None, SkipLayerGuidance(layers=(0, 1), start=0.0, stop=0.6)])
def test_images_in_flight_stay_beside_the_weights(folder: Path, skip_layers: SkipLayerGuidance | None) -> None:
    """Requests that step together on torch's tensors end where each alone ends on numpy's, by the same weights."""
    engine = StepEngine(folder, StepSettings(buckets=BUCKETS, skip_layers=(0, 1)))
    flights = InFlight(engine, max_rows=8)
    together = [Kept() for _ in range(3)]
    for seed, kept in enumerate(together):
        flights.join(Flight(make_slot(seed, skip_layers), kept))
    while flights.step():
        pass
    for seed, kept in enumerate(together):
        slot = make_slot(seed, skip_layers)
        while not slot.is_finished:
            slot.advance(call(engine, transformer_inputs([slot], slot.conditioning())))
        assert kept.latents is not None
        assert error(kept.latents, slot.latents) < 1e-5
