"""The core imports no component and no ML framework, and its rooms import one another downward only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

CORE = ROOT / "aquatint"

# From the bottom to the top; a room imports only what stands before it. The package itself comes last, since its names
# are the clients' and the contract's.
ROOMS = [
    "_version",
    "contract",
    "settings",
    "diffusion",
    "storage",
    "images",
    "repository",
    "server",
    "client",
    "registry",
    "http",
    "testing",
    "cli",
    "__init__",
]

# What a core module must do without.
FRAMEWORKS = [
    "diffusers",
    "kfp",
    "kserve",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "transformers",
    "triton_python_backend_utils",
    "vllm",
]


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of what a module imports anywhere, also inside functions and for type checkers."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """Return the room of a dotted name of the core."""
    part = name.split(".")[1] if "." in name else "__init__"
    return part if (CORE / part).is_dir() or (CORE / f"{part}.py").is_file() else "__init__"


def modules() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def test_every_room_has_its_place() -> None:
    found = {path.relative_to(CORE).parts[0].removesuffix(".py") for path in modules()}
    assert found == {*ROOMS}


def test_rooms_import_downward_only() -> None:
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        for name in imports(path)
        if name.split(".")[0] == "aquatint"
        and ROOMS.index(room(name)) > ROOMS.index(path.relative_to(CORE).parts[0].removesuffix(".py"))
    ]
    assert upward == []


def test_the_core_imports_no_component() -> None:
    """It finds what components offer by their entry points, see ``aquatint.cli.components``."""
    components = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        for name in imports(path)
        if name.startswith("aquatint_")
    ]
    assert components == []


def test_every_module_is_imported_without_a_framework() -> None:
    code = f"""
import importlib, pkgutil, sys
for name in {FRAMEWORKS}:
    sys.modules[name] = None
import aquatint
for module in pkgutil.walk_packages(aquatint.__path__, "aquatint."):
    importlib.import_module(module.name)
    print(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    walked = {ROOT / name.replace(".", "/") for name in done.stdout.split()}
    assert walked == {path.with_suffix("") if path.stem != "__init__" else path.parent for path in modules()} - {CORE}
