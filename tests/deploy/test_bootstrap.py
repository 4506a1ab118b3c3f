"""The set-up: what it refuses in one line, what it skips, and what it prints when a stage fails."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the script as a module that works in a folder of its own."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bootstrap", module)
    spec.loader.exec_module(module)
    for name, path in {"ROOT": "", "VENV": ".venv", "BIN": ".venv/bin", "LOGS": "build/logs"}.items():
        monkeypatch.setattr(module, name, tmp_path / path)
    return module


Version = namedtuple("Version", "major minor micro")


@pytest.mark.parametrize(
    ("patched", "said"),
    [
        ({"sys.version_info": Version(3, 10, 1)}, r"Python 3\.10 is too old: 3\.11 or 3\.12 is needed"),
        ({"sys.version_info": Version(3, 13, 0)}, r"Python 3\.13 is too new .*make run PYTHON=python3\.12"),
        ({"platform.machine": lambda: "aarch64"}, "built for Linux on x86-64, and this is Linux on aarch64"),
        ({"platform.system": lambda: "Darwin"}, "clients run anywhere"),
        ({"platform.libc_ver": lambda: ("", "")}, "needs glibc"),
        ({"importlib.util.find_spec": lambda name: None}, r"apt install python3\.\d+-venv"),
        ({"shutil.disk_usage": lambda path: SimpleNamespace(free=3 << 30)}, "3.0 GiB of disk are free here, and 4 GiB"),
    ],
    ids=["old", "new", "arm", "mac", "musl", "no venv", "disk"],
)
def test_machines_that_cannot(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, patched: dict[str, Any], said: str
) -> None:
    modules = {"sys": sys, "platform": platform, "importlib.util": importlib.util, "shutil": shutil}
    for name, value in patched.items():
        module, _, attribute = name.rpartition(".")
        monkeypatch.setattr(modules[module], attribute, value)
    with pytest.raises(bootstrap.SetUpError, match=said):
        bootstrap.check_machine("run")


def test_this_machine_can(bootstrap: ModuleType) -> None:
    bootstrap.check_machine("run")


def stage(bootstrap: ModuleType, name: str, code: str, **options: Any) -> Any:
    return bootstrap.Stage(name, [[sys.executable, "-c", code]], **options)


def run(bootstrap: ModuleType, *stages: Any) -> None:
    with bootstrap.Board() as board:
        bootstrap.Runner(board).run(stages)


def test_stages_wait_for_each_other(bootstrap: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    first = stage(bootstrap, "first", f"import time; time.sleep(0.3); open({str(made)!r}, 'w')")
    second = stage(bootstrap, "second", f"open({str(made)!r})", after=["first"])
    run(bootstrap, first, second)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["✓", "first"], ["✓", "second"]]


def test_what_is_done_is_not_done_again(bootstrap: ModuleType, tmp_path: Path) -> None:
    lock, log = tmp_path / "lock.txt", tmp_path / "log"
    lock.write_text("a==1")
    wanted = stage(bootstrap, "install", f"open({str(log)!r}, 'a').write('x')", inputs=[lock])
    run(bootstrap, wanted)
    run(bootstrap, wanted)
    assert log.read_text() == "x"
    lock.write_text("a==2")
    run(bootstrap, wanted)
    assert log.read_text() == "xx"
    run(bootstrap, stage(bootstrap, "install", f"open({str(log)!r}, 'a').write('y')", inputs=[lock]))
    assert log.read_text() == "xxy"


def test_a_failure_shows_the_end_of_its_log(bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    broken = stage(bootstrap, "packages", "print('loud'); raise SystemExit('No space left on device')")
    after = stage(bootstrap, "torch", "open('never', 'w')", after=["packages"])
    with pytest.raises(bootstrap.SetUpError) as caught:
        run(bootstrap, broken, after)
    assert "packages failed; the end of build/logs/packages.log" in str(caught.value)
    assert "The disk is full." in str(caught.value)
    assert "✗ packages" in capsys.readouterr().out
    assert not (bootstrap.ROOT / "never").exists()
    # Nothing half done counts as done.
    assert not (bootstrap.VENV / "stages" / "packages").exists()


@pytest.mark.parametrize("target", ["run", "test", "all"])
def test_stages_name_what_is_there(bootstrap: ModuleType, target: str) -> None:
    needed = bootstrap.stages(target, "torch==2.13.0", ["--index-url", "x"])
    names = [each.name for each in needed]
    assert len(set(names)) == len(names)
    for each in needed:
        assert set(each.after) <= set(names), each.name
        for path in each.inputs:
            assert path.is_file() or bootstrap.ROOT in path.parents, path
    torch = next(each for each in needed if each.name == "torch")
    assert torch.commands[0][-3:] == ["--index-url", "x", "torch==2.13.0"]


def test_pips_index_is_uvs(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    assert bootstrap._package_index() == {"UV_DEFAULT_INDEX": "https://mirror.example/simple"}
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    assert bootstrap._package_index() == {}
