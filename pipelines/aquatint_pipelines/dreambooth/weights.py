"""What Dreambooth trains in a pipeline, and how it is kept: a LoRA adapter, or whole components."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from aquatint.contract.errors import InvalidRequest
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe

# Attention of both streams of an MMDiT block, as in diffusers' own script for SD3.
_TRANSFORMER_LAYERS = [
    *(f"{attention}.{layer}" for attention in ("attn", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"attn.{layer}" for layer in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
]
_CLIP_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]
# diffusers keeps adapters of these two encoders; T5 is only trained whole.
_CLIP_ENCODERS = ("text_encoder", "text_encoder_2")
# Samples of the base model, files for other libraries, and other precisions.
_NOT_COPIED = ("golden", "sample_sheet.png", "scores.json", ".*", "*.bin", "*.pt", "*.ckpt", "*.fp16.*")


def text_encoders(pipeline: StableDiffusion3Pipeline, recipe: DreamboothRecipe) -> tuple[str, ...]:
    """List the text encoders that the recipe trains and the pipeline has."""
    if not recipe.train_text_encoders:
        return ()
    names = _CLIP_ENCODERS if recipe.method == "lora" else (*_CLIP_ENCODERS, "text_encoder_3")
    return tuple(name for name in names if getattr(pipeline, name) is not None)


def make_trainable(
    pipeline: StableDiffusion3Pipeline, recipe: DreamboothRecipe, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Freeze everything but what the recipe trains, which stays in FP32; the rest goes to ``dtype``."""
    trained = ("transformer", *text_encoders(pipeline, recipe))
    for name in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3"):
        module = getattr(pipeline, name)
        if module is None:
            continue
        full = recipe.method == "full" and name in trained
        module.requires_grad_(full).to(device, torch.float32 if full else dtype)
        if recipe.method == "lora" and name in trained:
            layers = _TRANSFORMER_LAYERS if name == "transformer" else _CLIP_LAYERS
            config = LoraConfig(
                r=recipe.lora_rank, lora_alpha=recipe.lora_rank, init_lora_weights="gaussian", target_modules=layers
            )
            module.add_adapter(config)
            cast_training_params(module)
        if recipe.gradient_checkpointing and name == "transformer":
            module.enable_gradient_checkpointing()


def make_optimizer(
    parameters: list[nn.Parameter], recipe: DreamboothRecipe, device: torch.device
) -> tuple[torch.optim.Optimizer, str]:
    """Make the recipe's optimizer, and say why this one: 8-bit Adam needs bitsandbytes and a GPU."""
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    why = "as the recipe says"
    if recipe.optimizer == "adamw8bit":
        if device.type != "cuda":
            why = "8-bit Adam runs on a GPU only"
        else:
            try:
                from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415 - an optional library that only GPUs use

                kind = AdamW8bit
            except ImportError:
                why = "8-bit Adam needs bitsandbytes, which is not installed"
    return kind(parameters, lr=recipe.learning_rate, weight_decay=1e-4), why


class TrainedState:
    """The trained parameters of a module, for ``Accelerator.register_for_checkpointing``."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the trained values by name."""
        return {name: parameter.detach().cpu() for name, parameter in self._parameters.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy the values back in place."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[name])


def save(pipeline: StableDiffusion3Pipeline, recipe: DreamboothRecipe, folder: Path) -> None:
    """Write the adapter, or the trained components, to ``folder``."""
    folder.mkdir(parents=True)
    encoders = text_encoders(pipeline, recipe)
    if recipe.method == "full":
        for name in ("transformer", *encoders):
            getattr(pipeline, name).save_pretrained(folder / name)
        return
    layers: dict[str, Any] = {
        f"{name}_lora_layers": get_peft_model_state_dict(getattr(pipeline, name)) for name in ("transformer", *encoders)
    }
    StableDiffusion3Pipeline.save_lora_weights(folder, **layers)


def is_adapter(folder: Path) -> bool:
    """Return whether ``folder`` holds a LoRA adapter rather than whole components."""
    return (folder / "pytorch_lora_weights.safetensors").is_file()


def assemble(checkpoint: Path, trained: Path, *, out: Path, fuse: bool = True) -> None:
    """Write the tuned checkpoint to ``out``: a whole diffusers folder, every tensor in the base checkpoint's precision.

    What was not trained is copied as it is. ``fuse=False`` leaves an adapter beside the untouched base, in
    ``out/adapter``: such a folder generates the subject with diffusers' ``load_lora_weights``, but is not what
    ``aquatint export`` takes. Raises ``InvalidRequest`` if there is no adapter to keep.
    """
    adapter = is_adapter(trained)
    if not fuse and not adapter:
        raise InvalidRequest("fuse: full fine-tuning has no adapter to keep separate")
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    if not fuse:
        shutil.copytree(trained, out / "adapter")
        return
    pipeline = StableDiffusion3Pipeline.from_pretrained(checkpoint, dtype=torch.float32)
    if adapter:
        names = {key.partition(".")[0] for key in _stored_dtypes(trained)}
        pipeline.load_lora_weights(trained)
        pipeline.fuse_lora(components=sorted(names))
        pipeline.unload_lora_weights()
        tuned = {name: getattr(pipeline, name) for name in names}
    else:
        tuned = {
            folder.name: type(getattr(pipeline, folder.name)).from_pretrained(folder) for folder in trained.iterdir()
        }
    for name, module in tuned.items():
        dtypes = _stored_dtypes(checkpoint / name)
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.data = tensor.data.to(dtypes.get(key, tensor.dtype))
        shutil.rmtree(out / name)
        module.save_pretrained(out / name, safe_serialization=True)


def _stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Read the precision of every tensor in a component's files, or an adapter's."""
    found: dict[str, torch.dtype] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if ".fp16." not in path.name:
            with safe_open(path, "pt") as tensors:
                found |= {name: tensors.get_tensor(name).dtype for name in tensors.keys()}  # noqa: SIM118 - no mapping
    return found
