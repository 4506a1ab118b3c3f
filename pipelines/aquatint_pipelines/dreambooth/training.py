"""Dreambooth for SD3 and SD3.5: LoRA or full fine-tuning by flow matching, with prior preservation.

Ruiz et al. 2023 (Dreambooth), Hu et al. 2021 (LoRA), Esser et al. 2024 (SD3's loss). Knows nothing about Kubeflow,
export or serving. ``launch`` runs it in several processes, which average their gradients.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from diffusers import StableDiffusion3Pipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_density_for_timestep_sampling
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from aquatint.contract.errors import InvalidConfiguration
from aquatint_pipelines.dreambooth import data, weights
from aquatint_pipelines.dreambooth.embedding import Embedder, similarity
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe
from aquatint_pipelines.folders import replace_folder, settle_folder
from aquatint_pipelines.generating import generate, sheet

_log = logging.getLogger("aquatint.dreambooth")

METRICS_FILE = "metrics.jsonl"
OUTCOME_FILE = "outcome.json"
WEIGHTS = "weights"
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Outcome:
    """What a training run did. ``loss`` is of the last step, ``similarity`` of the last validation."""

    steps: int
    seconds: float
    loss: float | None
    similarity: float | None
    stopped: str


@dataclass(frozen=True)
class Rows:
    """Images as the VAE's posterior, on the training device, with their captions."""

    posterior: DiagonalGaussianDistribution
    captions: list[str]

    def sample(self, indices: list[int]) -> Tensor:
        """Sample latents ``(n, c, h, w)`` from the posterior, new each time, not yet scaled."""
        chosen = DiagonalGaussianDistribution(self.posterior.parameters[indices])
        latents: Tensor = chosen.sample()
        return latents


class Progress:
    """Where a run is; saved with its checkpoint."""

    def __init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.best = -math.inf
        self.worse = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for ``Accelerator.register_for_checkpointing``."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state for ``Accelerator.register_for_checkpointing``."""
        vars(self).update(state)


class Denoiser(nn.Module):
    """Transformer and text encoders as the one module that accelerate prepares, so that all gradients are synced."""

    def __init__(self, pipeline: StableDiffusion3Pipeline, recipe: DreamboothRecipe) -> None:
        super().__init__()
        self.transformer = pipeline.transformer
        trained = weights.text_encoders(pipeline, recipe)
        self.encoders = nn.ModuleDict({name: getattr(pipeline, name) for name in trained})
        self._pipeline = pipeline
        self._tokens = recipe.max_sequence_length
        self._encoded: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(self, noisy: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """Predict the velocity ``noise - latents`` of noisy ``(n, c, h, w)`` latents at ``timesteps`` of 0 to 1000."""
        prompt_embeds, pooled = self._encode(captions) if self.encoders else self._remembered(captions)
        velocity: Tensor = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=prompt_embeds,
            pooled_projections=pooled,
            timestep=timesteps,
            return_dict=False,
        )[0]
        return velocity

    def _encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        prompt_embeds, _, pooled, _ = self._pipeline.encode_prompt(
            captions,
            None,
            None,
            device=self.transformer.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._tokens,
        )
        return prompt_embeds, pooled

    def _remembered(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Encode each caption once: frozen encoders always answer the same."""
        with torch.no_grad():
            for caption in set(captions) - set(self._encoded):
                self._encoded[caption] = self._encode([caption])
        pairs = [self._encoded[caption] for caption in captions]
        return torch.cat([prompt for prompt, _ in pairs]), torch.cat([pooled for _, pooled in pairs])


class Trainer:
    """One run: ``train`` resumes where an earlier run in the folder ``run`` stopped.

    Writes to ``run``: ``weights`` (LoRA adapter, or the trained components), ``metrics.jsonl``, ``validation/*.png``
    and TensorBoard's ``logs``. ``embedder`` measures validation images; without one nothing stops early. Raises
    ``ModelRejected`` if the dataset was changed, or lacks class images that the recipe asks for.
    """

    def __init__(
        self, checkpoint: Path, dataset: Path, *, recipe: DreamboothRecipe, run: Path, embedder: Embedder | None = None
    ) -> None:
        self._dataset = data.read(dataset)
        if recipe.prior is not None and not self._dataset.classes:
            raise InvalidConfiguration("the recipe preserves the prior, but the dataset has no class pictures")
        self._recipe, self._run, self._embedder = recipe, run, embedder
        self._accelerator = Accelerator(
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            mixed_precision=recipe.mixed_precision,
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "logs")),
        )
        # No other process may sample the same noise.
        seed = recipe.seed + self._accelerator.process_index
        torch.manual_seed(seed)
        self._rng = random.Random(seed)
        self._pipeline = StableDiffusion3Pipeline.from_pretrained(checkpoint, dtype=_DTYPES[recipe.mixed_precision])
        self._pipeline.set_progress_bar_config(disable=True)
        self._originals = data.read_images(dataset, self._dataset.instance)
        self._instance = self._encode_images(self._originals, self._dataset.instance)
        classes = data.read_images(dataset, self._dataset.classes) if recipe.prior else None
        self._classes = None if classes is None else self._encode_images(classes, self._dataset.classes)
        self._prepare()

    def _encode_images(self, images: np.ndarray[Any, Any], described: list[data.DatasetImage]) -> Rows:
        vae = self._pipeline.vae.to(self._accelerator.device, torch.float32).requires_grad_(requires_grad=False)
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        with torch.no_grad():
            moments = [vae.encode(part.to(vae.device)).latent_dist.parameters for part in torch.split(tensor, 8)]
        return Rows(DiagonalGaussianDistribution(torch.cat(moments)), [image.caption for image in described])

    def _prepare(self) -> None:
        recipe, accelerator = self._recipe, self._accelerator
        dtype = _DTYPES[recipe.mixed_precision]
        weights.make_trainable(self._pipeline, recipe, dtype=dtype, device=accelerator.device)
        model = Denoiser(self._pipeline, recipe)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer, why = weights.make_optimizer(parameters, recipe, accelerator.device)
        _log.info("%d trained parameters, %s: %s", sum(p.numel() for p in parameters), type(optimizer).__name__, why)
        schedule = get_scheduler(
            recipe.lr_scheduler,
            optimizer,
            num_warmup_steps=recipe.lr_warmup_steps * accelerator.num_processes,
            num_training_steps=recipe.max_train_steps * accelerator.num_processes,
        )
        trained = weights.TrainedState(model)
        self._model, self._optimizer, self._schedule = accelerator.prepare(model, optimizer, schedule)
        self._parameters = parameters
        self._ema = EMAModel(parameters, decay=recipe.ema_decay) if recipe.ema_decay else None
        self._progress = Progress()
        accelerator.register_for_checkpointing(self._progress, trained, *([self._ema] if self._ema else []))
        # Only what is trained is saved: the rest is in the checkpoint that the run began from.
        accelerator.register_save_state_pre_hook(lambda models, states, folder: states.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
        if accelerator.is_main_process:
            settle_folder(self._run / "state")
        accelerator.wait_for_everyone()
        if (self._run / "state").is_dir():
            accelerator.load_state(str(self._run / "state"))
            _log.info("resuming after step %d", self._progress.step)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes the run's files."""
        return bool(self._accelerator.is_main_process)

    def train(self) -> Outcome:
        """Step until the recipe's number of steps, or until nothing improves; then write the weights."""
        recipe, progress = self._recipe, self._progress
        self._accelerator.init_trackers("dreambooth")
        loss, measured, stopped = None, None, "all steps done"
        quiet = not self._accelerator.is_main_process
        with tqdm(
            total=recipe.max_train_steps, initial=progress.step, desc="dreambooth", mininterval=5.0, disable=quiet
        ) as bar:
            while progress.step < recipe.max_train_steps:
                started = time.monotonic()
                loss, norm = self._step()
                progress.step += 1
                progress.seconds += time.monotonic() - started
                bar.update()
                if progress.step % _LOG_EVERY_STEPS == 0:
                    self._report({"loss": loss, "grad_norm": norm, "lr": self._schedule.get_last_lr()[0]})
                if progress.step % recipe.validation.every_steps == 0:
                    measured = self._from_main(self._validate())
                    if self._is_enough(measured):
                        stopped = f"no better in {recipe.validation.patience} validations"
                        break
                if progress.step % recipe.checkpoint_every_steps == 0:
                    self._save()
        self._save()
        with self._averaged():
            if self._accelerator.is_main_process:
                partial = self._run / f"{WEIGHTS}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                weights.save(self._pipeline, recipe, partial)
                replace_folder(partial, self._run / WEIGHTS)
        self._accelerator.end_training()
        return Outcome(progress.step, progress.seconds, loss, measured, stopped)

    def _step(self) -> tuple[float, float]:
        """Take an optimizer step, of several micro-batches if gradients accumulate; return loss and gradient norm."""
        norm = 0.0
        for _ in range(self._recipe.gradient_accumulation_steps):
            with self._accelerator.accumulate(self._model):
                loss = self._loss()
                self._accelerator.backward(loss)
                if self._accelerator.sync_gradients:
                    norm = float(self._accelerator.clip_grad_norm_(self._parameters, self._recipe.max_grad_norm))
                self._optimizer.step()
                self._schedule.step()
                self._optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.step(self._parameters)
        return float(loss.detach()), norm

    def _loss(self) -> Tensor:
        """Compute the squared error of the velocity, of the subject's rows plus the weighted rows of the prior."""
        prior = self._recipe.prior
        latents, captions = self._batch(self._instance, self._recipe.batch_size, self._recipe.caption_dropout)
        if self._classes is not None and prior is not None:
            others, their_captions = self._batch(self._classes, prior.batch_size, 0.0)
            latents, captions = torch.cat([latents, others]), captions + their_captions
        noise = torch.randn_like(latents)
        sigmas = self._sigmas(len(latents)).to(latents.device)
        noisy = torch.lerp(latents, noise, sigmas[:, None, None, None])
        steps = self._pipeline.scheduler.config.num_train_timesteps
        velocity = self._model(noisy, sigmas * steps, captions).float()
        errors = F.mse_loss(velocity, noise - latents, reduction="none").mean(dim=(1, 2, 3))
        loss = errors[: self._recipe.batch_size].mean()
        if prior is not None:
            loss = loss + prior.loss_weight * errors[self._recipe.batch_size :].mean()
        return loss

    def _batch(self, rows: Rows, size: int, dropout: float) -> tuple[Tensor, list[str]]:
        chosen = [self._rng.randrange(len(rows.captions)) for _ in range(size)]
        config = self._pipeline.vae.config
        latents = (rows.sample(chosen) - config.shift_factor) * config.scaling_factor
        return latents, ["" if self._rng.random() < dropout else rows.captions[index] for index in chosen]

    def _sigmas(self, count: int) -> Tensor:
        """Sample logit-normal noise levels (Esser et al. 2024, section 3.1), moved by the scheduler's shift."""
        recipe = self._recipe
        sigmas: Tensor = compute_density_for_timestep_sampling(
            "logit_normal", count, recipe.logit_mean, recipe.logit_std
        )
        shift: float = self._pipeline.scheduler.config.shift
        return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)

    def _validate(self) -> float | None:
        """Generate the validation prompts; return the subject's similarity to the instance images."""
        if not self._accelerator.is_main_process:
            return None
        recipe, step = self._recipe, self._progress.step
        templates = recipe.validation.prompts
        prompts = [data.with_token(template, self._dataset.token) for template in templates]
        with self._averaged(), self._accelerator.autocast():
            images = generate(
                self._pipeline,
                prompts,
                seeds=[recipe.seed] * len(prompts),
                sampling=recipe.sampling,
            )
        folder = self._run / "validation"
        folder.mkdir(exist_ok=True)
        sheet(images, columns=len(images), scale=1).save(folder / f"{step:06d}.png")
        writer = self._accelerator.get_tracker("tensorboard", unwrap=True)
        writer.add_images("validation", images, step, dataformats="NHWC")
        subject = [index for index, template in enumerate(templates) if "{token}" in template]
        if self._embedder is None or not subject:
            return None
        measured = similarity(self._embedder(images[subject]), self._embedder(self._originals))
        self._report({"similarity": measured})
        return measured

    def _from_main(self, value: float | None) -> float | None:
        """Return the main process's value: all must stop together, or those that continue wait forever."""
        shared = [value]
        broadcast_object_list(shared)
        return shared[0]

    def _is_enough(self, measured: float | None) -> bool:
        progress, patience = self._progress, self._recipe.validation.patience
        if measured is None or patience == 0:
            return False
        better = measured > progress.best
        progress.best = max(progress.best, measured)
        progress.worse = 0 if better else progress.worse + 1
        return progress.worse >= patience

    def _report(self, values: dict[str, float]) -> None:
        self._accelerator.log(values, step=self._progress.step)
        if self._accelerator.is_main_process:
            with (self._run / METRICS_FILE).open("a") as file:
                file.write(json.dumps({"step": self._progress.step, **values}) + "\n")

    def _save(self) -> None:
        """Write the state beside the old one, then put it in its place."""
        partial = self._run / "state.partial"
        self._accelerator.save_state(str(partial))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            replace_folder(partial, self._run / "state")
        self._accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the EMA's weights into the model inside the block."""
        if self._ema is None:
            yield
            return
        self._ema.store(self._parameters)
        self._ema.copy_to(self._parameters)
        try:
            yield
        finally:
            self._ema.restore(self._parameters)


def train(
    checkpoint: Path, dataset: Path, *, recipe: DreamboothRecipe, run: Path, embedder: Embedder | None = None
) -> Outcome:
    """Run a ``Trainer`` and write its outcome beside its weights."""
    run.mkdir(parents=True, exist_ok=True)
    # accelerate keeps one precision for the whole process; another recipe may want another.
    AcceleratorState._reset_state()
    trainer = Trainer(checkpoint, dataset, recipe=recipe, run=run, embedder=embedder)
    outcome = trainer.train()
    if trainer.is_main_process:
        (run / OUTCOME_FILE).write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    return outcome
