"""What every training stage shares: a time budget, its learning-rate schedule, EMA, resumable checkpoints, snapshots.

A checkpoint (``state``) holds everything and stays on the machine; a snapshot holds the EMA weights in FP16 and what
they cost, small enough for a repository. Training resumes from either; after a snapshot the optimizer starts afresh.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from aquatint_pipelines.folders import replace_folder, settle_folder
from aquatint_pipelines.mini import optimizers
from aquatint_pipelines.mini.recipe import StageRecipe

SNAPSHOT = "snapshot.safetensors"
_SAVE_EVERY_SECONDS = 240.0
# A step that seems to take longer than this was suspended; the pause is not charged to the budget.
_LONGEST_STEP_SECONDS = 10.0

_Model = TypeVar("_Model", bound=torch.nn.Module)


def precision(wanted: str) -> tuple[str, str]:
    """Decide what ``mixed_precision: auto`` means on this machine, and why; anything else is taken as it is."""
    if wanted != "auto":
        return wanted, "the recipe says so"
    if torch.cuda.is_available():
        return "bf16", "the GPU computes in BF16"
    if torch.cpu._is_avx512_bf16_supported():
        return "bf16", "the CPU has AVX512-BF16: 1.6 times as fast as FP32"
    return "no", "the CPU has no AVX512-BF16"


class Progress:
    """Steps done, seconds spent training by the clock and on cores; saved with the checkpoint."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.core_seconds = 0.0
        # Steps since the optimizer was new, which the warm-up follows.
        self.warm_steps = 0

    def count(self, started: tuple[float, float]) -> None:
        """Charge the step that began at ``started`` (what ``now`` returned then)."""
        wall, core = (after - before for after, before in zip(self.now(), started))
        self.step += 1
        self.warm_steps += 1
        self.seconds += min(wall, _LONGEST_STEP_SECONDS)
        self.core_seconds += core

    @staticmethod
    def now() -> tuple[float, float]:
        """Return seconds by the clock, and seconds this process spent on cores."""
        return time.monotonic(), time.process_time()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for ``Accelerator.register_for_checkpointing``."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state for ``Accelerator.register_for_checkpointing``."""
        vars(self).update({"warm_steps": state["step"], **state})


class Stage(Generic[_Model]):
    """Runs one model for the minutes its recipe gives.

    It resumes from ``folder`` if a checkpoint is there, else from ``snapshot`` if that exists. The learning rate warms
    up linearly, then falls to zero with the cosine of the share of the budget used, so a slow machine trains fewer
    steps but always ends annealed. ``ema`` holds the weights to ship.
    """

    def __init__(
        self,
        model: _Model,
        recipe: StageRecipe,
        folder: Path,
        *,
        mixed_precision: str,
        snapshot: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        chosen, why = precision(mixed_precision)
        print(f"precision {chosen}: {why}")
        dtype = torch.bfloat16 if chosen == "bf16" else torch.float32
        # Stages of one process may differ in precision, which accelerate holds globally.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=chosen)
        self.device = self.accelerator.device
        self.progress = Progress()
        settle_folder(folder / "state")
        resumes = (folder / "state").is_dir()
        if not resumes and snapshot is not None and snapshot.is_file():
            load_snapshot(model, self.progress, snapshot)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizers.build(model, recipe, dtype))
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = EMAModel(self.model.parameters(), decay=recipe.ema_decay, foreach=True)
        self.ema.to(self.device)
        self.accelerator.register_for_checkpointing(self.progress, self.ema)
        if resumes:
            self.accelerator.load_state(str(folder / "state"))
        self._examined = self.done

    @property
    def done(self) -> float:
        """The share of the time budget used, 0 to 1."""
        used = self.progress.core_seconds if self.recipe.clock == "core" else self.progress.seconds
        return min(1.0, used / (60.0 * self.recipe.minutes))

    def steps(self, label: str) -> Iterator[int]:
        """Yield step numbers until the budget is used; the caller calls ``update`` once in each.

        Raises ``SystemExit`` after a SIGTERM, when the checkpoint is written.
        """
        last_saved = time.monotonic()
        bars = tqdm(total=round(self.recipe.minutes, 2), desc=label, unit="min", mininterval=5.0)
        with bars as bar, _terminations() as terminations:
            while self.done < 1.0 and not terminations:
                started = self.progress.now()
                yield self.progress.step
                self.progress.count(started)
                bar.n = round(self.done * self.recipe.minutes, 2)
                bar.set_postfix(step=self.progress.step, loss=f"{self.loss:.4f}")
                if time.monotonic() - last_saved > _SAVE_EVERY_SECONDS:
                    self.save()
                    last_saved = time.monotonic()
        self.save()
        if terminations:
            raise SystemExit(128 + terminations[0])

    loss = 0.0
    # The last measurements; a snapshot carries them along.
    figures: Mapping[str, float] = MappingProxyType({})

    def update(self, loss: torch.Tensor) -> None:
        """Back-propagate, clip, step the optimizer at this moment's learning rate, and update the EMA."""
        warmup = min(1.0, (self.progress.warm_steps + 1) / self.recipe.warmup_steps)
        scale = warmup * 0.5 * (1.0 + math.cos(math.pi * self.done))
        for group, peak in zip(self.optimizer.param_groups, self._peaks):
            group["lr"] = peak * scale
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.model.parameters())
        if self.progress.step % 20 == 0:
            self.loss = float(loss.detach())

    def save(self) -> None:
        """Write checkpoint and snapshot beside the old ones, then put them in place."""
        partial, final = self.folder / "state.partial", self.folder / "state"
        self.accelerator.save_state(str(partial))
        replace_folder(partial, final)
        self.save_snapshot(self.folder / SNAPSHOT)

    def examination_due(self) -> bool:
        """Return whether ``evaluate_every_minutes`` of the budget passed since it last was; never where that is 0."""
        every = self.recipe.evaluate_every_minutes / self.recipe.minutes
        if not every or self.done < self._examined + every:
            return False
        self._examined = self.done
        return True

    @contextmanager
    def averaged(self) -> Iterator[_Model]:
        """Yield the unwrapped model with the EMA weights in it, for as long as the context lasts."""
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        model: _Model = self.accelerator.unwrap_model(self.model).eval()
        try:
            yield model
        finally:
            self.ema.restore(self.model.parameters())
            model.train()

    def log(self, **values: float) -> None:
        """Append one line to ``log.jsonl``: where the training stands, and ``values``."""
        progress = self.progress
        minutes = {"core_minutes": progress.core_seconds / 60.0, "minutes": progress.seconds / 60.0}
        self.figures = values
        line = {"step": progress.step, **minutes, "loss": self.loss, **values}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({name: round(value, 5) for name, value in line.items()}) + "\n")

    def save_snapshot(self, path: Path) -> None:
        """Write the EMA weights in FP16, with what they cost and the last figures in the file's header."""
        with self.averaged() as model:
            weights = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
        partial = path.with_suffix(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = {name: round(value, 2) for name, value in self.figures.items()}
        header = {name: str(value) for name, value in {**self.progress.state_dict(), **figures}.items()}
        save_file(weights, partial, metadata=header)
        partial.replace(path)

    def finish(self) -> _Model:
        """Return the unwrapped model with the EMA weights in it."""
        self.ema.copy_to(self.model.parameters())
        model: _Model = self.accelerator.unwrap_model(self.model)
        return model.eval()


@contextmanager
def _terminations() -> Iterator[list[int]]:
    """Collect SIGTERMs received in the context, which do not end the process; only the main thread may ask for them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def load_snapshot(model: torch.nn.Module, progress: Progress, path: Path) -> None:
    """Put a snapshot's weights into ``model`` and its cost into ``progress``; the warm-up begins again."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    progress.step = int(header["step"])
    progress.seconds, progress.core_seconds = float(header["seconds"]), float(header["core_seconds"])
