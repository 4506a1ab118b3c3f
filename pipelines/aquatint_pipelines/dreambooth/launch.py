"""Training in as many processes as there are GPUs, through torchrun; in this one if one is enough."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from aquatint.contract.errors import EngineUnavailable
from aquatint_pipelines.dreambooth import training
from aquatint_pipelines.dreambooth.embedding import open_embedder
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe
from aquatint_pipelines.dreambooth.training import Outcome

_log = logging.getLogger("aquatint.dreambooth")


def train(
    checkpoint: Path, dataset: Path, *, recipe: DreamboothRecipe, run: Path, embedder: str, processes: int | None = None
) -> Outcome:
    """Run ``training.train`` in ``processes``, each with a batch of its own; by default one per GPU.

    Raises ``EngineUnavailable`` if a process ended early: the log has its own words.
    """
    count, why = (processes, "as asked") if processes else _processes()
    _log.info("training by %d process%s: %s", count, "es" if count > 1 else "", why)
    if count == 1:
        return training.train(checkpoint, dataset, recipe=recipe, run=run, embedder=open_embedder(embedder))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        # JSON is YAML.
        file.write(recipe.model_dump_json())
        file.flush()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += ["-m", "aquatint_pipelines.dreambooth", *map(str, (checkpoint, dataset, file.name, run, embedder))]
        # accelerate must be told that several processes without GPUs belong together.
        environment = {**os.environ, "ACCELERATE_USE_CPU": str(not torch.cuda.is_available())}
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            raise EngineUnavailable(f"training by {count} processes failed")
    return Outcome(**json.loads((run / training.OUTCOME_FILE).read_text()))


def _processes() -> tuple[int, str]:
    gpus = torch.cuda.device_count()
    return (gpus, "one for each GPU") if gpus > 1 else (1, "there are not several GPUs")
