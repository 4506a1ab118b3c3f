"""The chat backend with everything real: MCP server, Triton, vLLM."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from aquatint_benchmarks import intents
from aquatint_chat.llm import LanguageModel
from aquatint_chat.router import Router
from aquatint_chat.settings import ChatSettings
from aquatint_llm import EMBEDDED_MODEL
from openai.types.chat import ChatCompletionFunctionToolParam

from aquatint.client import Client
from aquatint.server import TritonServer
from tests.e2e.conftest import Metrics, eventually
from tests.e2e.processes import WebServer, chat_environment, mcp_environment
from tests.e2e.test_text_to_image import FOX
from tests.previews import assert_shows, pixels

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def chat(server: TritonServer, llm_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("chat")
    with contextlib.ExitStack() as stack:
        mcp = stack.enter_context(WebServer("aquatint-mcp", mcp_environment(server.grpc_url, folder)))
        running = stack.enter_context(WebServer("aquatint-chat", chat_environment(mcp.url, llm_url, folder)))
        yield stack.enter_context(httpx.Client(base_url=running.url, timeout=120))


def events(chat: httpx.Client, content: str, **fields: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A turn's events as they come."""
    name = ""
    with chat.stream("POST", "/api/v1/chat/completions", json={"content": content, **fields}) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def answer(chat: httpx.Client, content: str, **fields: Any) -> dict[str, Any]:
    """The stored answer, after ``done``."""
    *_, (name, last) = events(chat, content, **fields)
    assert name == "done"
    return last


def test_the_bar(chat: httpx.Client, grpc_client: Client) -> None:
    """A wish is drawn, previewed before it is there, and remembered; the picture is the one Triton draws."""
    seen = list(events(chat, f"draw {FOX.prompt}", image={"seed": FOX.seed}))
    names = [name for name, _ in seen]
    previews = {
        index: data["preview"] for index, (name, data) in enumerate(seen) if name == "progress" and data["preview"]
    }
    assert len(previews) == 7
    assert max(previews) < names.index("image")
    image = next(data["image"] for name, data in seen if name == "image")
    drawn = chat.get(image["url"]).content
    assert drawn == grpc_client.generate(FOX).images[0].png
    assert_shows(pixels(previews[max(previews)]), pixels(drawn))
    conversation = seen[-1][1]["conversation"]["id"]
    said = answer(chat, "what did I just ask for?", conversation_id=conversation)["message"]["content"]
    assert FOX.prompt in said
    assert "Paris" in answer(chat, "What is the capital of France?")["message"]["content"]


def test_stop_reaches_triton(chat: httpx.Client, metrics: Metrics) -> None:
    cancelled = metrics("aquatint_requests_total", outcome="Cancelled")
    for name, _ in events(chat, "/imagine a fox", image={"num_inference_steps": 150, "num_images": 4, "width": 128}):
        if name == "progress":
            break
    assert eventually(lambda: metrics("aquatint_requests_total", outcome="Cancelled") == cancelled + 1)


def test_stop_reaches_vllm(chat: httpx.Client, llm_url: str) -> None:
    def running() -> float:
        lines = httpx.get(f"{llm_url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    for name, _ in events(chat, "Write a very long story about the sea"):
        if name == "token":
            assert running() == 1
            break
    assert eventually(lambda: running() == 0)


def test_status_and_drawing_errors(chat: httpx.Client) -> None:
    status = chat.get("/api/v1/status").json()
    assert status["llm"]["model"] == EMBEDDED_MODEL
    assert status["drawing"]["models"][0]["name"] == "mini"
    refused = list(events(chat, "/imagine a fox", image={"width": 1024}))
    error = next(data for name, data in refused if name == "error")
    assert error == {
        "code": "InvalidRequest",
        "message": "width: must be a multiple of 16 from 16 to 128, is 1024",
        "retryable": False,
    }


def test_tool_calls_reach_vllms_parser(llm_url: str) -> None:
    """vLLM's tool parser and our template: a forced call comes back as a call, streamed."""
    schema: dict[str, object] = {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}
    tools: list[ChatCompletionFunctionToolParam] = [
        {"type": "function", "function": {"name": "draw", "description": "Draw", "parameters": schema}}
    ]
    with openai.OpenAI(base_url=f"{llm_url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=EMBEDDED_MODEL,
            messages=[{"role": "user", "content": "Draw a red apple"}],
            tools=tools,
            tool_choice={"type": "function", "function": {"name": "draw"}},
            stream=True,
            max_tokens=60,
            temperature=0,
        )
        pieces = [piece for chunk in stream for choice in chunk.choices for piece in choice.delta.tool_calls or ()]
    assert pieces[0].function is not None
    assert pieces[0].function.name == "draw"
    arguments = json.loads("".join(piece.function.arguments or "" for piece in pieces if piece.function))
    assert isinstance(arguments["prompt"], str)


@pytest.mark.parametrize(("name", "at_least"), [("intents", 0.95), ("intents_held_out", 0.9)])
async def test_the_right_thing_happens(llm_url: str, name: str, at_least: float) -> None:
    """Talk or draw, with a faithful prompt, as the README states."""
    llm = LanguageModel(ChatSettings(llm_url=f"{llm_url}/v1"))
    right, total = await intents.measure(name, Router(llm, EMBEDDED_MODEL))
    await llm.close()
    assert right >= at_least * total


def test_the_list_is_long_and_mixed() -> None:
    entries = yaml.safe_load((Path(intents.__file__).with_name("intents.yaml")).read_text())
    assert len(entries) >= 60
    assert {entry["right"] for entry in entries} == {"talk", "draw", "both"}
    assert sum("after" in entry for entry in entries) >= 15
