"""What ``aquatint run`` must know about a program: its command and its port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Program:
    """A command to keep running. If it ends within ``starts_in_s``, it has not started and is tried twice more."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    starts_in_s: int = 20
    stops_in_s: int = 15


@dataclass(frozen=True)
class Port:
    """A port that must be free, the program that needs it, and the variable that changes it."""

    owner: str
    variable: str
    number: int
