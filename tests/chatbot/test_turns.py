"""Whole turns through the HTTP API: what the page sees, what is stored, and what stops."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest
from aquatint_chat.testing import FakeLlm, Reply
from aquatint_llm import EMBEDDED_MODEL

from aquatint.contract.errors import Overloaded
from aquatint.contract.image import read_parameters
from aquatint.testing import FakeGenerator
from tests.chatbot.conftest import Chat, named
from tests.previews import pixels
from tests.serving import until

DRAW_FOX = Reply(calls=(("generate_image", '{"prompt": "a fox"}'),))


async def test_talk(chat: Chat, llm: FakeLlm) -> None:
    llm.replies = [Reply("**Paris** is it.")]
    events = await chat.say("What is the capital of France?")
    assert [name for name, _ in events] == ["start", "token", "token", "token", "usage", "done"]
    assert "".join(token["text"] for token in named(events, "token")).strip() == "**Paris** is it."
    (usage,) = named(events, "usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 3)
    stored = await chat.conversation(events[0][1]["conversation"]["id"])
    assert [(m["role"], m["status"]) for m in stored["messages"]] == [("user", "complete"), ("assistant", "complete")]
    assert stored["title"] == "What is the capital of France?"


async def test_generate_by_tool_call(chat: Chat, llm: FakeLlm) -> None:
    """Previews come before the image; the model gets the text of the tool and has the last word."""
    llm.replies = [DRAW_FOX, Reply("There it is.")]
    events = await chat.say("draw a fox", image={"seed": 5, "width": 32})
    names = [name for name, _ in events]
    assert names.index("tool_call") < names.index("progress") < names.index("image") < names.index("token")
    (call,) = named(events, "tool_call")
    assert call["arguments"] == {"prompt": "a fox", "seed": 5, "width": 32}
    previews = [event["preview"] for event in named(events, "progress") if event["preview"]]
    assert [event["progress"] for event in named(events, "progress")] == [1, 2, 3, 4]
    assert len(previews) == 2
    assert previews[0].startswith("data:image/png;base64,")
    (image,) = named(events, "image")
    assert image["image"]["seed"] == 5
    assert image["image"]["parameters"]["width"] == 32
    got = await chat.http.get(image["image"]["url"])
    assert got.headers["content-type"] == "image/png"
    assert read_parameters(got.content)["prompt"] == "a fox"
    # The previews of the fake engine are its images.
    for preview in previews:
        np.testing.assert_array_equal(pixels(preview), pixels(got.content))
    told = llm.requests[1]["messages"]
    assert told[-2]["tool_calls"][0]["function"]["name"] == "generate_image"
    assert "a fox" in told[-1]["content"]


async def test_memory(chat: Chat, llm: FakeLlm) -> None:
    """The next turn carries the conversation, with the tool call as it was made."""
    llm.replies = [DRAW_FOX, Reply("There."), Reply("A fox.")]
    events = await chat.say("draw a fox")
    await chat.say("what did I ask?", conversation_id=events[0][1]["conversation"]["id"])
    roles = [message["role"] for message in llm.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_a_wrong_call_is_told_to_the_model(chat: Chat, llm: FakeLlm) -> None:
    llm.replies = [
        Reply(calls=(("generate_image", '{"prompt": "a fox", "width": 7}'),)),
        Reply(calls=(("generate_image", "{broken"),)),
        Reply(calls=(("paint", "{}"),)),
        DRAW_FOX,
        Reply("At last."),
    ]
    events = await chat.say("draw a fox")
    assert named(events, "error") == []
    assert len(named(events, "image")) == 1
    results = [request["messages"][-1]["content"] for request in llm.requests[1:4]]
    assert "width" in results[0]
    assert "not a JSON object" in results[1]
    assert "there is no 'paint'" in results[2]
    # A name that a model made up is no label of a metric.
    assert "paint" not in (await chat.http.get("/metrics")).text


@pytest.mark.parametrize("settings", [{"max_rounds": 2}])
async def test_rounds_are_limited(chat: Chat, llm: FakeLlm) -> None:
    """After the last round the model gets no more tools, so it must talk."""
    llm.replies = [DRAW_FOX, DRAW_FOX, Reply("Enough.")]
    events = await chat.say("draw and draw")
    assert len(named(events, "image")) == 2
    assert len({call["id"] for call in named(events, "tool_call")}) == 2
    assert "tools" in llm.requests[1]
    assert "tools" not in llm.requests[2]
    assert events[-1][1]["message"]["content"].strip() == "Enough."


async def test_imagine_needs_no_model(chat: Chat, llm: FakeLlm) -> None:
    events = await chat.say("/imagine a fox on a blue background", image={"num_images": 2})
    assert [event["image"]["prompt"] for event in named(events, "image")] == ["a fox on a blue background"] * 2
    assert llm.requests == []
    (error,) = named(await chat.say("/imagine  "), "error")
    assert error["code"] == "InvalidRequest"
    assert not error["retryable"]


@pytest.mark.parametrize("settings", [{"llm_url": "http://127.0.0.1:9/v1"}])
async def test_with_the_model_away(chat: Chat) -> None:
    events = await chat.say("please draw a fox on a blue background")
    assert [event["image"]["prompt"] for event in named(events, "image")] == ["a fox on a blue background"]
    conversation = events[0][1]["conversation"]["id"]
    (error,) = named(await chat.say("What is a fox?", conversation_id=conversation), "error")
    assert error["code"] == "EngineUnavailable"
    assert error["retryable"]
    assert "Pictures still work" in error["message"]
    status = (await chat.http.get("/api/v1/status")).json()
    assert not status["llm"]["ready"]
    assert status["drawing"]["ready"]
    ready = await chat.http.get("/health/ready")
    assert ready.status_code == 200


async def test_stop_while_talking(chat: Chat, llm: FakeLlm) -> None:
    """Closing the connection closes the model's stream; what was said is stored as stopped."""
    llm.gate = asyncio.Event()
    llm.replies = [Reply("Once upon a time")]
    conversation = ""
    async with contextlib.aclosing(chat.stream("Tell me a story")) as events:
        async for name, data in events:
            if name == "start":
                conversation = data["conversation"]["id"]
            if name == "token":
                assert llm.active == 1
                break
    await until(lambda: llm.active == 0)
    await _stored(chat, conversation, 2)
    (_, answer) = (await chat.conversation(conversation))["messages"]
    assert (answer["status"], answer["content"]) == ("stopped", "Once ")


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


async def test_stop_while_generating(chat: Chat, engine: FakeGenerator, gate: asyncio.Event) -> None:
    engine.gate = gate
    conversation = ""
    async with contextlib.aclosing(chat.stream("/imagine a fox")) as events:
        async for name, data in events:
            if name == "start":
                conversation = data["conversation"]["id"]
            if name == "progress":
                assert engine.active == 1
                break
    await until(lambda: engine.active == 0)
    gate.set()
    # The next turn waits for the stopped one to be stored, so their order holds.
    await chat.say("/imagine a cat", conversation_id=conversation)
    statuses = [(m["role"], m["status"]) for m in (await chat.conversation(conversation))["messages"]]
    assert statuses == [("user", "complete"), ("assistant", "stopped"), ("user", "complete"), ("assistant", "complete")]


async def test_a_failing_tool_is_said_in_words(chat: Chat, engine: FakeGenerator) -> None:
    engine.transport.failures.append(Overloaded("the queue is full", 1.0))
    events = await chat.say("/imagine a fox")
    (error,) = named(events, "error")
    assert error == {"code": "Overloaded", "message": "the queue is full; retry after 1 s", "retryable": True}
    answer = events[-1][1]["message"]
    assert (answer["status"], answer["error"]["code"]) == ("failed", "Overloaded")
    # Retry takes the place of the failed turn.
    start = events[0][1]
    again = await chat.say(
        "/imagine a fox",
        conversation_id=start["conversation"]["id"],
        replace_message_id=start["message"]["id"],
    )
    assert named(again, "image")
    assert len((await chat.conversation(start["conversation"]["id"]))["messages"]) == 2


@pytest.mark.parametrize(("status", "code"), [(500, "EngineUnavailable"), (429, "Overloaded"), (400, "InvalidRequest")])
async def test_a_failing_model_is_said_in_words(chat: Chat, llm: FakeLlm, status: int, code: str) -> None:
    llm.default = Reply(status=status)
    (error,) = named(await chat.say("hello"), "error")
    assert error["code"] == code


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "content"),
        ({"content": ""}, "content"),
        ({"content": " \n"}, "content"),
        ({"content": "x" * 32_001}, "content"),
        ({"content": "x", "image": {"num_images": 11}}, "image.num_images"),
        ({"content": "x", "image": {"eta": 1}}, "image.eta"),
        ({"content": "x", "image": {"seed": -1}}, "image.seed"),
        ({"content": "x", "else": 1}, "else"),
    ],
)
async def test_bad_input(chat: Chat, body: dict[str, Any], field: str) -> None:
    answer = await chat.http.post("/api/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{field}: ")


async def test_unknown_conversations(chat: Chat) -> None:
    ((name, error),) = await chat.say("hello", conversation_id="0" * 32)
    assert (name, error["code"]) == ("error", "ConversationNotFound")
    events = await chat.say("hello")
    found = events[0][1]["conversation"]["id"]
    ((name, error),) = await chat.say("hello", conversation_id=found, replace_message_id=10**6)
    assert (name, error["code"]) == ("error", "InvalidRequest")
    # A conversation deleted amid its turn takes nothing else with it.
    assert (await chat.http.delete(f"/api/v1/conversations/{found}")).status_code == 204
    assert (await chat.http.get(f"/api/v1/conversations/{found}")).status_code == 404


class TestSmallModel:
    """The embedded model does not choose tools: the router does."""

    @pytest.fixture
    def llm(self) -> FakeLlm:
        return FakeLlm(model=EMBEDDED_MODEL)

    async def test_follow_up(self, chat: Chat, llm: FakeLlm) -> None:
        first = await chat.say("draw a fox on a blue background")
        assert llm.requests == []
        conversation = first[0][1]["conversation"]["id"]
        llm.replies = [Reply("image"), Reply("a purple fox on a blue background")]
        second = await chat.say("now in purple", conversation_id=conversation)
        assert llm.requests[0]["structured_outputs"] == {"choice": ["talk", "image"]}
        assert named(second, "image")[0]["image"]["prompt"] == "a purple fox on a blue background"
        # A prompt that nobody said is not used; the user's own words are.
        llm.replies = [Reply("image"), Reply("an elephant")]
        third = await chat.say("now in green", conversation_id=conversation)
        prompt = named(third, "image")[0]["image"]["prompt"]
        assert prompt == "a purple fox on a blue background, now in green"

    async def test_recall(self, chat: Chat, llm: FakeLlm) -> None:
        first = await chat.say("draw a fox on a blue background")
        conversation = first[0][1]["conversation"]["id"]
        llm.replies = [Reply("You asked for a black cat.")]
        answer = await chat.say("what did I just ask for?", conversation_id=conversation)
        assert answer[-1][1]["message"]["content"] == "You said: “draw a fox on a blue background”"

    async def test_both(self, chat: Chat, llm: FakeLlm) -> None:
        llm.default = Reply("They live in forests.")
        events = await chat.say("Draw a bear and tell me where bears live")
        assert [event["image"]["prompt"] for event in named(events, "image")] == ["a bear"]
        assert events[-1][1]["message"]["content"].strip() == "Here is a bear.\n\nThey live in forests."


async def _stored(chat: Chat, conversation: str, count: int) -> None:
    async with asyncio.timeout(10):
        while len((await chat.conversation(conversation))["messages"]) < count:
            await asyncio.sleep(0.02)
