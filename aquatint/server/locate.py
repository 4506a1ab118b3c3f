"""Find a ``tritonserver`` and lay out its backend directory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from aquatint.contract.errors import EngineUnavailable


@dataclass(frozen=True)
class Installation:
    """A usable tritonserver. ``why`` says how it was chosen; ``wheel`` is set for the nvidia-pytriton wheel."""

    binary: Path
    why: str
    wheel: Path | None = None

    def environment(self) -> dict[str, str]:
        """Build the process environment: our Python first on the PATH, and the libraries the wheel needs."""
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
        environment["PYTHONUNBUFFERED"] = "1"
        # One BLAS thread: the text-to-image models' small numpy sums must not compete with the engine for cores.
        environment.setdefault("OMP_NUM_THREADS", "1")
        if self.wheel is not None:
            libraries = [sysconfig.get_config_var("LIBDIR"), str(self.wheel.parent / "nvidia_pytriton.libs")]
            known = [environment["LD_LIBRARY_PATH"]] if environment.get("LD_LIBRARY_PATH") else []
            environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *known])
        return environment

    def cache_directory(self) -> Path | None:
        """Return where the wheel keeps its response caches; ``None`` means Triton's default."""
        return self.wheel / "tritonserver" / "caches" if self.wheel is not None else None


def locate(configured: Path | None) -> Installation:
    """Find the configured binary, else one on the PATH, else the nvidia-pytriton wheel's.

    Raises ``EngineUnavailable`` saying what to install.
    """
    if configured is not None:
        if not os.access(configured, os.X_OK):
            raise EngineUnavailable("AQUATINT_TRITONSERVER does not name an executable file")
        return Installation(configured, "set by AQUATINT_TRITONSERVER", _wheel_of(configured))
    if found := shutil.which("tritonserver"):
        return Installation(Path(found), "found on the PATH")
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0])
        binary = wheel / "tritonserver" / "bin" / "tritonserver"
        if binary.is_file():
            return Installation(binary, "from the nvidia-pytriton wheel", wheel)
    raise EngineUnavailable("no tritonserver: pip install 'aquatint[triton]', or set AQUATINT_TRITONSERVER")


def _wheel_of(binary: Path) -> Path | None:
    wheel = binary.resolve().parents[2]
    return wheel if (wheel / "tritonserver" / "python_backend_stubs").is_dir() else None


def lay_out_backends(installation: Installation, folder: Path) -> None:
    """Fill ``folder`` with the ``python`` backend (copied, as Triton requires) and links to our own backends.

    Raises ``EngineUnavailable`` when the wheel has no stub for this Python.
    """
    if installation.wheel is not None:
        server = installation.wheel / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            raise EngineUnavailable(f"this tritonserver has no Python backend for Python {version}")
        python = folder / "python"
        shutil.copytree(server / "backends" / "python", python, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(stub, python / stub.name)
    else:
        default = installation.binary.resolve().parents[1] / "backends"
        for backend in sorted(default.iterdir()) if default.is_dir() else ():
            (folder / backend.name).symlink_to(backend)
    for backend in own_backends():
        if not (folder / backend.name).exists():
            (folder / backend.name).symlink_to(backend)


def own_backends() -> list[Path]:
    """List the folders of our python-based backends."""
    root = Path(str(resources.files("aquatint_backends")))
    return sorted(path.parent for path in root.glob("*/model.py"))
