"""The project's own papers agree with each other: Makefile, hooks, changelog, documents, locks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from aquatint import __version__
from tests.conftest import ROOT
from tests.mutants import MUTANTS, Mutant

MAKEFILE = (ROOT / "Makefile").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
DOCUMENTS = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
LOCKS = [*sorted((ROOT / "deploy" / "locks").glob("*.txt")), ROOT / "chatbot" / "aquatint_llm" / "requirements.txt"]
# These say what a lock omits; they are not locks themselves.
LOCKS = [path for path in LOCKS if not path.name.endswith("overrides.txt")]

each_document = pytest.mark.parametrize("document", DOCUMENTS)
each_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))


def recipe(target: str) -> list[str]:
    """Return the commands of a target, with ``$(BIN)`` filled in."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, target
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def code(document: str) -> Iterator[str]:
    """Return what a document shows as code, line by line."""
    fence = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
    text = (ROOT / document).read_text()
    for block in fence.findall(text):
        yield from map(str.strip, block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", fence.sub("", text))


def entries(lock: Path) -> list[tuple[Requirement, list[str]]]:
    """Return the requirements of a lock, each with its hashes."""
    joined = re.sub(r"\\\n\s*", "", lock.read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(line.split("--hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def locked(lock: str, name: str) -> Version:
    """Return the one version of a package in a lock of ``deploy/locks``."""
    (version,) = [
        Version(next(iter(requirement.specifier)).version)
        for requirement, _ in entries(ROOT / "deploy" / "locks" / lock)
        if requirement.name == name
    ]
    return version


def test_hooks_are_the_commands_of_make_check() -> None:
    """Except that the formatting hook fixes what ``make check`` only reports."""
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [line.replace(" --check", "") for line in recipe("check")]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}


def test_changelog_has_this_version() -> None:
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert any(re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", heading) for heading in headings)


@each_document
def test_make_targets_exist(document: str) -> None:
    named = {found[1] for line in code(document) if (found := re.match(r"make ([a-z][\w-]*)", line))}
    assert named or document == "SECURITY.md"
    assert [target for target in sorted(named) if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)] == []


@each_document
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)[)#]", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_language_model_is_installed_by_the_locked_uv() -> None:
    pins = re.findall(r"^_UV = \"uv==(.+)\"$", (ROOT / "chatbot/aquatint_llm/environment.py").read_text(), re.MULTILINE)
    assert pins
    assert {Version(pin) for pin in pins} == {locked("uv.txt", "uv")}


@each_lock
def test_locks_name_no_index(lock: Path) -> None:
    """The index is chosen by whoever installs."""
    found = re.findall(r"^.*://.*|^ *(?:-i|-f|--(?:extra-)?index-url|--find-links)\b.*", lock.read_text(), re.MULTILINE)
    assert found == []


@each_lock
def test_locks_are_exact(lock: Path) -> None:
    found = entries(lock)
    assert found
    for requirement, hashes in found:
        assert [each.operator for each in requirement.specifier] == ["=="], requirement
        assert "*" not in str(requirement.specifier), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement


def test_versions_that_must_not_drift() -> None:
    """Triton's Python backend needs numpy 1; transformers 5.24 asks for a release of peft that does not exist yet."""
    assert locked("main.txt", "numpy").major == 1
    assert locked("main.txt", "transformers") < Version("5.24")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_are_not_stale(mutant: Mutant) -> None:
    """Whoever changes central code is told here, not by ``make mutants``."""
    assert (ROOT / mutant.file).read_text().count(mutant.original) == 1
