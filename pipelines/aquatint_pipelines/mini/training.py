"""What every training stage shares: a time budget, its learning-rate schedule, EMA and resumable checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from aquatint_pipelines.folders import replace_folder, settle_folder
from aquatint_pipelines.mini.recipe import StageRecipe

_SAVE_EVERY_SECONDS = 240.0
# A step that seems to take longer than this was suspended, and the pause is not charged to the budget.
_LONGEST_STEP_SECONDS = 10.0

_Model = TypeVar("_Model", bound=torch.nn.Module)


class Progress:
    """Steps done and seconds spent training; saved with the checkpoint."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """For ``Accelerator.register_for_checkpointing``."""
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For ``Accelerator.register_for_checkpointing``."""
        self.step, self.seconds = state["step"], state["seconds"]


class Stage(Generic[_Model]):
    """Runs one model for the minutes its recipe gives, resuming from ``folder`` when a checkpoint is there.

    The learning rate warms up linearly, then falls to zero with the cosine of the share of the budget used, so a slow
    machine trains fewer steps but always ends annealed. ``ema`` holds the weights to ship.
    """

    def __init__(self, model: _Model, recipe: StageRecipe, folder: Path, mixed_precision: str) -> None:
        self.recipe = recipe
        self.folder = folder
        self.accelerator = Accelerator(mixed_precision=mixed_precision)
        self.device = self.accelerator.device
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(self.model.parameters(), decay=recipe.ema_decay, foreach=True)
        self.ema.to(self.device)
        self.progress = Progress()
        self.accelerator.register_for_checkpointing(self.progress, self.ema)
        settle_folder(folder / "state")
        if (folder / "state").is_dir():
            self.accelerator.load_state(str(folder / "state"))

    @property
    def done(self) -> float:
        """Share of the time budget used, 0 to 1."""
        return min(1.0, self.progress.seconds / (60.0 * self.recipe.minutes))

    def steps(self, label: str) -> Iterator[int]:
        """Yield step numbers until the budget is used; the caller calls ``update`` once in each."""
        last_saved = time.monotonic()
        with tqdm(total=round(self.recipe.minutes, 2), desc=label, unit="min", mininterval=5.0) as bar:
            while self.done < 1.0:
                started = time.monotonic()
                yield self.progress.step
                self.progress.step += 1
                self.progress.seconds += min(time.monotonic() - started, _LONGEST_STEP_SECONDS)
                bar.n = round(self.progress.seconds / 60.0, 2)
                bar.set_postfix(step=self.progress.step, loss=f"{self.loss:.4f}")
                if time.monotonic() - last_saved > _SAVE_EVERY_SECONDS:
                    self.save()
                    last_saved = time.monotonic()
        self.save()

    loss = 0.0

    def update(self, loss: torch.Tensor) -> None:
        """Back-propagate, clip, step the optimizer at this moment's learning rate, and update the EMA."""
        warmup = min(1.0, (self.progress.step + 1) / self.recipe.warmup_steps)
        scale = warmup * 0.5 * (1.0 + math.cos(math.pi * self.done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * scale
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.model.parameters())
        if self.progress.step % 20 == 0:
            self.loss = float(loss.detach())

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        partial, final = self.folder / "state.partial", self.folder / "state"
        self.accelerator.save_state(str(partial))
        replace_folder(partial, final)

    def finish(self) -> _Model:
        """Return the unwrapped model with the EMA weights in it."""
        self.ema.copy_to(self.model.parameters())
        model: _Model = self.accelerator.unwrap_model(self.model)
        return model.eval()
