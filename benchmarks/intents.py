"""How often the right thing happens: talk or generate, and a faithful prompt, on a fixed list of messages.

python -m aquatint_benchmarks.intents            # the language model of AQUATINT_CHAT_LLM_URL
    python -m aquatint_benchmarks.intents --no-llm   # what wording alone decides

A message counts when the right thing happens and the prompt says what it must and nothing it must not.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from aquatint_chat.llm import LanguageModel
from aquatint_chat.router import Part, Past, Router
from aquatint_chat.settings import ChatSettings

from aquatint.settings import read_settings

LISTS = ("intents", "intents_held_out")


def messages(name: str) -> list[dict[str, Any]]:
    """Read one of ``LISTS``."""
    entries: list[dict[str, Any]] = yaml.safe_load((Path(__file__).with_name(f"{name}.yaml")).read_text())
    return entries


def past_of(entry: dict[str, Any]) -> Past:
    """Return the conversation before the message."""
    exchanges, last = [], None
    for before in entry.get("after", []):
        if "draw" in before:
            last = before["draw"]
            exchanges.append((f"draw {last}", f"Here is {last}."))
        else:
            exchanges.append((before["user"], before["assistant"]))
    return Past(exchanges, last)


def is_right(entry: dict[str, Any], parts: list[Part]) -> bool:
    """Return whether the parts are what the entry asks for."""
    prompts = [part.prompt for part in parts if part.prompt is not None]
    did = "both" if prompts and len(prompts) < len(parts) else "draw" if prompts else "talk"
    words = set(re.findall(r"[\w-]+", " ".join(prompts).lower()))
    return did == entry["right"] and set(entry.get("says", [])) <= words and not set(entry.get("not", [])) & words


async def measure(name: str, router: Router) -> tuple[int, int]:
    """Count how many were right of how many; print the share by kind, and every wrong one."""
    right, total = Counter[str](), Counter[str]()
    for entry in messages(name):
        kind = f"follow-up {entry['right']}" if "after" in entry else entry["right"]
        parts = await router.plan(entry["message"], past_of(entry))
        total[kind] += 1
        if is_right(entry, parts):
            right[kind] += 1
        else:
            print("  wrong:", entry["message"], "->", [part.prompt or "talk" for part in parts])
    by_kind = ", ".join(f"{kind} {right[kind]}/{total[kind]}" for kind in total)
    share = right.total() / total.total()
    print(f"{name}: {right.total()}/{total.total()} ({share:.0%}); {by_kind}")
    return right.total(), total.total()


async def main() -> None:
    """Measure both lists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-llm", action="store_true")
    llm = LanguageModel(read_settings(ChatSettings))
    router = Router(llm, None if parser.parse_args().no_llm else await llm.model())
    for name in LISTS:
        await measure(name, router)
    await llm.close()


if __name__ == "__main__":
    asyncio.run(main())
