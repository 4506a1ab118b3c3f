"""Every command in the documents is run or says why not; links lead somewhere; the site builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.documents import DOCUMENTS, blocks
from tests.docs.test_commands import RUNNERS

MAKEFILE = (ROOT / "Makefile").read_text()
README = ROOT / "README.md"
OTHERS = ["CONTRIBUTING.md", "SECURITY.md"]
MADE = ["build", "dist"]
_FENCE = re.compile(r"^```(\w*)$", re.MULTILINE)


def test_every_command_is_run_or_says_why_not() -> None:
    found = list(blocks("bash", "python"))
    assert {block.runner for block in found} == {*RUNNERS, None}
    assert [block for block in found if block.runner is None and len(block.reason.split()) < 3] == []


def test_every_block_is_found() -> None:
    """In a language that is tested, or plain text such as a diagram."""
    fences = [fence for path in DOCUMENTS for fence in _FENCE.findall(path.read_text())]
    known = list(blocks("", "bash", "json", "python"))
    assert len(known) == len(fences) / 2
    commands = re.compile(r"^(\$ |make |curl |kubectl |pip |python |\.venv/)", re.MULTILINE)
    assert [block for block in known if block.language == "" and commands.search(block.text)] == []


def test_placeholders_are_not_run() -> None:
    assert [block for block in blocks("bash") if "…" in block.text and block.runner is not None] == []


def test_json_can_be_read() -> None:
    for block in blocks("json"):
        json.loads(block.text)


def test_make_targets_exist() -> None:
    text = "\n".join(block.text for block in blocks("bash"))
    for target in re.findall(r"^make ([\w-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("path", [*DOCUMENTS, *(ROOT / name for name in OTHERS)], ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    """Except for placeholders, which have capitals or braces, and what programs make."""
    folders = "|".join(sorted(each.name for each in ROOT.iterdir() if each.is_dir() and each.name not in MADE))
    named = re.findall(rf"[`\s]((?:{folders})/[\w./-]+[\w/])(?=[`\s])", path.read_text())
    assert [name for name in named if not re.search("[A-Z]{2}", name) and not (ROOT / name).exists()] == []


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", [README, ROOT / "deploy" / "README.md", ROOT / "pipelines" / "README.md"])
def test_links_outside_the_site_lead_somewhere(path: Path) -> None:
    """mkdocs checks those between its pages."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build strictly: a page that is in no menu, or a link or an anchor that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not shown is not counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_site_is_built(site: Path) -> None:
    assert "Images in flight" in (site / "index.html").read_text()


def test_site_fetches_nothing(site: Path) -> None:
    """Scripts, styles and fonts are its own."""
    for page in site.rglob("*.html"):
        assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?://[^\s\">]*", page.read_text()) == []
