"""The documents' blocks of code, each with the comment before it that says how it is tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import ROOT
from tests.reference import FOLDER as REFERENCE

DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.is_relative_to(REFERENCE)),
]
# Run against real servers where no comment says otherwise.
SERVERS = "servers"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<how>run by|not run): (?P<what>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One block. ``runner`` is the test that runs it, or ``None``, and then ``reason`` says why there is none."""

    document: str
    language: str
    text: str
    runner: str | None
    reason: str = ""

    @property
    def images(self) -> set[str]:
        """The image files that it writes."""
        return set(re.findall(r"build/\w+\.png", self.text))


def blocks(*languages: str) -> Iterator[Block]:
    """Find every block in one of ``languages``."""
    for path in DOCUMENTS:
        for found in _BLOCK.finditer(path.read_text()):
            if found["language"] in languages:
                runner = {"run by": found["what"], "not run": None}.get(found["how"], SERVERS)
                reason = found["what"] if found["how"] == "not run" else ""
                yield Block(str(path.relative_to(ROOT)), found["language"], found["text"], runner, reason)


def run_by(runner: str) -> list[Block]:
    """Return the commands and programs of one runner."""
    return [block for block in blocks("bash", "python") if block.runner == runner]
