"""The models of a Triton model repository, one folder for each."""

from __future__ import annotations

import os
import shutil
from importlib import resources
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from aquatint.contract.errors import ModelRejected
from aquatint.contract.model_info import ModelInfo
from aquatint.diffusion import served_model
from aquatint.diffusion.served_model import ServedModel
from aquatint.repository import hub
from aquatint_export import triton_config
from aquatint_export.components import Component
from aquatint_export.families import Checkpoint
from aquatint_export.onnx_export import FILE_NAME
from aquatint_export.options import Target

VERSION = "1"
MODEL_INFO = "model_info.json"


def template(name: str) -> str:
    """Return the text of a ``config.pbtxt`` of ``model_repository/``."""
    return (resources.files("aquatint_model_repository") / name / "config.pbtxt").read_text()


def write_text_to_image(checkpoint: Checkpoint, served: ServedModel, folder: Path) -> None:
    """Write the unary and the decoupled model that callers use.

    Each gets its own copy of all it reads, for Triton may fetch each on its own.
    """
    for suffix in ("", "_stream"):
        name = f"{served.name}{suffix}"
        config = triton_config.text_to_image_config(template(f"text_to_image{suffix}"), served.info(), name)
        version = _write_model(folder / name, config)
        _write_served_model(served, version)
        for encoder in served.text_encoders:
            if encoder.present:
                _save_tokenizer(checkpoint.tokenizer(encoder), encoder.tokens, version / encoder.tokenizer)


def write_component(
    component: Component, served: ServedModel, folder: Path, *, target: Target, engine: str, on_gpu: bool
) -> Path:
    """Write the model of one component, run by ``engine``; return its version folder.

    The transformer's is the denoiser, which holds images in flight.
    """
    model = folder / served.triton_model(component.name)
    if component.name == "transformer":
        config = triton_config.denoiser_config(model.name, served, engine=engine, on_gpu=on_gpu)
    else:
        config = triton_config.component_config(
            component, model.name, max_batch_size=served.max_batch_size, target=target, engine=engine, on_gpu=on_gpu
        )
    version = _write_model(model, config)
    if component.name == "transformer":
        _write_served_model(served, version)
    return version


def write_pipeline(folder: Path, config: str, info: ModelInfo) -> Path:
    """Write a model that runs or relays to a whole pipeline; return its version folder.

    Triton wants a version folder, and a file in it lets object stores keep it.
    """
    version = _write_model(folder, config)
    (version / MODEL_INFO).write_text(info.model_dump_json(indent=1) + "\n")
    return version


def remove_onnx(version: Path) -> None:
    """Remove the ONNX file and its weights from a model's version folder."""
    for file in version.glob(f"{FILE_NAME}*"):
        file.unlink()


def copy_checkpoint(folder: Path, to: Path) -> None:
    """Copy everything but pickles and hidden files; hard links where the file system allows, for weights are large.

    Raises ``ModelRejected`` if there are no safetensors.
    """

    def link(source: str, target: str) -> None:
        try:
            os.link(os.path.realpath(source), target)
        except OSError:
            shutil.copy2(source, target)

    if not any(folder.rglob("*.safetensors")):
        raise ModelRejected("this checkpoint has no safetensors; pickled weights are not read")
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*hub.PICKLES, ".*"), copy_function=link)


def _write_model(folder: Path, config: str) -> Path:
    version = folder / VERSION
    version.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    return version


def _write_served_model(served: ServedModel, version: Path) -> None:
    (version / served_model.FILE_NAME).write_text(served.model_dump_json(indent=1) + "\n")


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: int, folder: Path) -> None:
    """Write ``tokenizer.json`` with padding and truncation to ``tokens`` in it, as the pipeline would ask for."""
    fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    fast.enable_truncation(tokens)
    fast.enable_padding(length=tokens, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    folder.mkdir()
    fast.save(str(folder / "tokenizer.json"))
