"""``aquatint doctor``: find out what runs on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata

from aquatint.cli import components
from aquatint.cli.components import Finding
from aquatint.cli.extras import install_command
from aquatint.contract.errors import AquatintError
from aquatint.settings import ServerSettings, read_settings


def examine() -> Iterator[Finding]:
    """Check every part in turn."""
    yield _tritonserver()
    yield _numpy()
    for part, module, extra in (
        ("onnx backend", "onnxruntime", "triton"),
        ("export", "torch", "export"),
        ("export", "diffusers", "export"),
        ("export", "onnxscript", "export"),
        ("pipelines", "accelerate", "pipelines"),
        ("KServe runtime", "kserve", "serving"),
        ("MCP server", "fastmcp", "mcp"),
        ("images in S3", "boto3", "mcp"),
        ("chat", "sqlalchemy", "chatbot"),
    ):
        yield _module(part, module, extra)
    for service in components.services():
        yield service.examine()
    yield _gpu()
    yield _shared_memory()


def _tritonserver() -> Finding:
    try:
        from aquatint.server.locate import locate  # noqa: PLC0415 - a client does not install its packages
    except ModuleNotFoundError as error:
        return Finding(
            "tritonserver", ok=False, detail=f"{error.name} is not installed", hint=install_command("triton")
        )
    try:
        installation = locate(read_settings(ServerSettings).tritonserver)
    except AquatintError as error:
        return Finding("tritonserver", ok=False, detail="not found", hint=str(error))
    return Finding("tritonserver", ok=True, detail=f"{installation.binary.name} {installation.why}")


def _numpy() -> Finding:
    version = metadata.version("numpy")
    if version.startswith("1.") or importlib.util.find_spec("pytriton") is None:
        return Finding("numpy", ok=True, detail=version)
    hint = "Triton's Python backend returns wrong values with numpy 2: pip install 'numpy<2'"
    return Finding("numpy", ok=False, detail=version, hint=hint)


def _module(part: str, module: str, extra: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(part, ok=False, detail=f"{module} is not installed", hint=install_command(extra))
    return Finding(part, ok=True, detail=f"{module} {metadata.version(module)}")


def _gpu() -> Finding:
    found = shutil.which("nvidia-smi") is not None
    return Finding(
        "GPU", ok=found, detail="nvidia-smi found" if found else "none: the CPU is used", hint="fine for the mini model"
    )


def _shared_memory() -> Finding:
    free = _free_bytes("/dev/shm")
    hint = "Triton's Python backend needs 64 MiB of /dev/shm per model: start the container with --shm-size=1g"
    return Finding("shared memory", ok=free > 512 << 20, detail=f"{free >> 20} MiB free", hint=hint)


def _free_bytes(path: str, statvfs: Callable[[str], os.statvfs_result] = os.statvfs) -> int:
    status = statvfs(path)
    return status.f_bavail * status.f_frsize
