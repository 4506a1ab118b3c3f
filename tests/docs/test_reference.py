"""The reference says what the code says, and leaves nothing out."""

from __future__ import annotations

import re

import pytest
from pydantic_settings import BaseSettings

from tests import reference

PAGES = {name: page() for name, page in reference.PAGES.items()}


@pytest.mark.parametrize("name", reference.PAGES)
def test_page_is_current(name: str) -> None:
    """After a change of the code: ``make docs``."""
    assert (reference.FOLDER / name).read_text() == PAGES[name]


def test_nothing_else_is_among_the_pages() -> None:
    assert {path.name for path in reference.FOLDER.iterdir()} == {*reference.PAGES}


@pytest.mark.parametrize("kind", reference.settings_classes(), ids=lambda kind: kind.__name__)
def test_every_setting_is_described(kind: type[BaseSettings]) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_every_variable_is_found_by_its_full_name() -> None:
    shown = set(re.findall(r"`([A-Z0-9_]+)`", PAGES["settings.md"]))
    assert len(shown) > 80
    assert reference.variables_in_code() - shown == set()


def test_request_page_has_the_limits() -> None:
    assert re.search(r"`num_inference_steps` \| INT32 \|.*\| ≥ `1`, ≤ `150` \|", PAGES["request.md"])


def test_every_error_is_found() -> None:
    for name in ("Overloaded", "ImageNotFound", "Internal"):
        assert f"`{name}`" in PAGES["errors.md"]


def test_every_command_is_found() -> None:
    for name in ("run", "generate", "export", "registry rollback", "llm install", "pipelines submit"):
        assert f"`aquatint {name}`\n" in PAGES["cli.md"]
