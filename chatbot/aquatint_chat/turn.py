"""One turn: the user's message in, events out, and both sides of it stored whatever happens."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
)
from pydantic import BaseModel, ConfigDict, Field, create_model

from aquatint.contract import errors
from aquatint.contract.errors import AquatintError, EngineUnavailable, InvalidRequest
from aquatint.contract.fields import model_fields
from aquatint.contract.request import GenerationRequest
from aquatint_chat import events, metrics, views, wording
from aquatint_chat.errors import ConversationNotFound
from aquatint_chat.events import Event
from aquatint_chat.history import past_of, tool_messages
from aquatint_chat.llm import LanguageModel, Messages, RequestedCall, TokenUsage
from aquatint_chat.router import Part, Router, talk_messages
from aquatint_chat.settings import ChatSettings, Intent
from aquatint_chat.store import ChatStore, Conversation, Message, Picture
from aquatint_chat.toolbox import Toolbox, ToolProgress, ToolResult

_log = logging.getLogger("aquatint.chat")

_PERMANENT = (InvalidRequest, errors.Forbidden, errors.ModelNotFound, ConversationNotFound)


class _ImageSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    # The only one that a turn reads itself.
    num_images: int | None = None


if TYPE_CHECKING:
    ImageSettings = _ImageSettings
else:
    # What the page's settings say about images; they win over what a language model chooses.
    _SETTINGS = [name for name in GenerationRequest.model_fields if name not in ("prompt", "preview_every")]
    ImageSettings = create_model("ImageSettings", __base__=_ImageSettings, **model_fields(_SETTINGS, optional=True))


class TurnRequest(BaseModel):
    """A message of the user's. For edit and retry, ``replace_message_id`` is an earlier one that this one replaces."""

    model_config = ConfigDict(extra="forbid")

    content: str = Field(min_length=1, max_length=32_000, pattern=r"\S")
    conversation_id: str | None = None
    replace_message_id: int | None = None
    image: ImageSettings = ImageSettings()


class Answer:
    """What the assistant has said and drawn so far."""

    def __init__(self, owner: str, conversation_id: str) -> None:
        self.text = ""
        self.calls: list[dict[str, Any]] = []
        self.pictures: list[Picture] = []
        self.usage = TokenUsage()
        self.status: Literal["complete", "stopped", "failed"] = "stopped"
        self.error: dict[str, Any] | None = None
        self._owner = owner
        self._conversation_id = conversation_id
        self._began = time.monotonic()

    def say(self, text: str) -> events.Token:
        """Add to the text."""
        self.text += text
        return events.Token(text=text)

    def add(self, call_id: str, result: ToolResult, prompt: str) -> list[events.Image]:
        """Add a tool's pictures."""
        added = []
        for image in result.images:
            parameters = {**result.structured.get("parameters", {})}
            picture = Picture(
                id=uuid.uuid4().hex,
                owner=self._owner,
                conversation_id=self._conversation_id,
                prompt=str(parameters.get("prompt", prompt)),
                seed=image.seed,
                parameters=parameters,
                media_type=image.media_type,
                data=image.data,
            )
            self.pictures.append(picture)
            added.append(events.Image(id=call_id, image=views.picture(picture)))
        return added

    def usage_event(self) -> events.Usage:
        """Tokens and seconds so far."""
        seconds = round(time.monotonic() - self._began, 3)
        return events.Usage(
            prompt_tokens=self.usage.prompt_tokens, completion_tokens=self.usage.completion_tokens, seconds=seconds
        )

    def message(self) -> Message:
        """The row to store."""
        return Message(
            role="assistant",
            content=self.text,
            status=self.status,
            error=self.error,
            tool_calls=self.calls,
            usage=self.usage_event().model_dump(exclude={"name"}),
            images=self.pictures,
        )


class Turns:
    """Runs turns over one language model, one toolbox and one store."""

    def __init__(self, llm: LanguageModel, toolbox: Toolbox, store: ChatStore, settings: ChatSettings) -> None:
        self._llm = llm
        self._toolbox = toolbox
        self._store = store
        self._settings = settings
        self._saving: set[asyncio.Task[Any]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """Wait until every answer is stored."""
        await asyncio.gather(*self._saving, return_exceptions=True)

    async def run(self, request: TurnRequest, owner: str) -> AsyncGenerator[Event, None]:
        """The turn's events. Leaving the iteration stops model and tools; what was there by then is stored.

        Raises:
            AquatintError: Before the first event, when the user's message could not be stored.
        """
        # One turn of a conversation after the other: also one that was stopped is stored before the next.
        lock = self._locks.setdefault(request.conversation_id or uuid.uuid4().hex, asyncio.Lock())
        await lock.acquire()
        try:
            conversation, message = await self._store.begin_turn(
                owner, request.conversation_id, request.content, request.replace_message_id
            )
        except BaseException:
            lock.release()
            raise
        self._locks[conversation.id] = lock
        answer = Answer(owner, conversation.id)
        try:
            yield events.Start(conversation=views.summary(conversation), message=views.message(message))
            async with aclosing(self._answer(request, conversation, answer)) as answering:
                async for event in answering:
                    yield event
            answer.status = "complete"
        # The border to the page: every failure becomes an event.
        except Exception as error:
            shown = _shown(errors.internal(error))
            answer.status, answer.error = "failed", shown.model_dump(exclude={"name"})
            yield shown
        finally:
            metrics.TURNS.labels(outcome=answer.status).inc()
            # The task outlives a page that went away.
            saving = asyncio.create_task(self._save(conversation.id, answer, lock))
            self._saving.add(saving)
            saving.add_done_callback(self._saving.discard)
        yield answer.usage_event()
        stored = await asyncio.shield(saving)
        if stored is None:
            yield events.Error(code="StoreUnavailable", message="this answer could not be stored", retryable=True)
        else:
            yield events.Done(conversation=views.summary(conversation), message=views.message(stored))

    async def _save(self, conversation_id: str, answer: Answer, lock: asyncio.Lock) -> Message | None:
        stored = answer.message()
        try:
            await self._store.end_turn(conversation_id, stored)
        except AquatintError as error:
            _log.warning("an answer was not stored: %s", error)
            return None
        finally:
            lock.release()
        return stored

    async def _answer(
        self, request: TurnRequest, conversation: Conversation, answer: Answer
    ) -> AsyncGenerator[Event, None]:
        """Who answers: the model with tools, or the router. Without a model the router draws what is plain."""
        model: str | None = None
        unreachable: AquatintError | None = None
        if wording.commanded(request.content) is None:
            try:
                model = await self._llm.model()
            except EngineUnavailable as error:
                unreachable = error
        if model is not None and self._settings.intent_for(model)[0] is Intent.TOOLS:
            parts = self._with_tools(model, request, conversation, answer)
        else:
            parts = self._by_parts(model, unreachable, request, conversation, answer)
        async with aclosing(parts):
            async for event in parts:
                yield event

    async def _by_parts(
        self,
        model: str | None,
        unreachable: AquatintError | None,
        request: TurnRequest,
        conversation: Conversation,
        answer: Answer,
    ) -> AsyncGenerator[Event, None]:
        """The router plans and the parts follow one another."""
        router, past = Router(self._llm, model), past_of(conversation.messages[:-1])
        for number, part in enumerate(await router.plan(request.content, past)):
            if number:
                yield answer.say("\n\n")
            if part.prompt is not None:
                async with aclosing(self._draw_part(part, request, answer)) as drawing:
                    async for event in drawing:
                        yield event
            elif model is None:
                assert unreachable is not None
                raise EngineUnavailable(
                    f"{unreachable}. Drawing works meanwhile: begin with “draw” or {wording.COMMAND}"
                )
            elif (memory := await router.recall(part.text, past)) is not None:
                yield answer.say(memory)
            else:
                async with aclosing(self._stream(model, talk_messages(part.text, past), answer)) as deltas:
                    async for delta in deltas:
                        if isinstance(delta, events.Token):
                            yield delta

    async def _draw_part(self, part: Part, request: TurnRequest, answer: Answer) -> AsyncGenerator[Event, None]:
        assert part.prompt is not None
        call = RequestedCall(_call_id(), self._settings.draw_tool, "")
        async with aclosing(self._call(call, {"prompt": part.prompt}, request, answer)) as calling:
            async for event in calling:
                yield event
        count = request.image.num_images or 1
        yield answer.say(f"Here is {part.prompt}." if count == 1 else f"Here are {count} pictures of {part.prompt}.")

    async def _with_tools(
        self, model: str, request: TurnRequest, conversation: Conversation, answer: Answer
    ) -> AsyncGenerator[Event, None]:
        """The model talks and calls tools until it has nothing more to call, at most ``max_rounds`` times."""
        messages = tool_messages(conversation.messages, self._settings)
        tools = [tool.for_llm() for tool in (await self._toolbox.tools()).values()]
        for round_number in range(self._settings.max_rounds + 1):
            # After the last round it must put what it has into words.
            offered = tools if round_number < self._settings.max_rounds else []
            said, wanted = len(answer.text), list[RequestedCall]()
            async with aclosing(self._stream(model, messages, answer, offered)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, RequestedCall):
                        # Some servers count from zero in every answer.
                        wanted.append(replace(delta, id=_call_id()))
                    else:
                        yield delta
            if not wanted:
                return
            messages.append(_assistant_message(answer.text[said:], wanted))
            for call in wanted:
                async with aclosing(self._requested(call, request, answer)) as calling:
                    async for event in calling:
                        yield event
                messages.append({"role": "tool", "tool_call_id": call.id, "content": answer.calls[-1]["result"]})

    async def _requested(
        self, call: RequestedCall, request: TurnRequest, answer: Answer
    ) -> AsyncGenerator[Event, None]:
        """A call of the model's; where it is wrong the model is told so and may try again."""
        try:
            arguments = json.loads(call.arguments or "{}")
            if not isinstance(arguments, dict):
                raise ValueError
        except ValueError:
            answer.calls.append(_record(call, {}, "InvalidRequest: the arguments are not a JSON object"))
            return
        try:
            async with aclosing(self._call(call, arguments, request, answer)) as calling:
                async for event in calling:
                    yield event
        except InvalidRequest as error:
            answer.calls.append(_record(call, arguments, errors.to_wire(error)))

    async def _call(
        self, call: RequestedCall, arguments: dict[str, Any], request: TurnRequest, answer: Answer
    ) -> AsyncGenerator[Event, None]:
        """Call a tool, with the page's settings where it has fields for them."""
        tool = await self._toolbox.tool(call.name)
        if tool.name == self._settings.draw_tool:
            chosen = request.image.model_dump(exclude_none=True)
            arguments = {**arguments, **{k: v for k, v in chosen.items() if k in tool.schema.get("properties", {})}}
        yield events.ToolCall(id=call.id, tool=tool.name, arguments=arguments)
        with metrics.TOOL_SECONDS.labels(tool=tool.name).time():
            async with aclosing(self._toolbox.call(tool.name, arguments)) as running:
                async for event in running:
                    if isinstance(event, ToolProgress):
                        yield events.Progress(
                            id=call.id, progress=event.progress, total=event.total, preview=event.preview
                        )
                        continue
                    answer.calls.append(_record(call, arguments, event.text))
                    for image in answer.add(call.id, event, str(arguments.get("prompt", ""))):
                        yield image

    async def _stream(
        self,
        model: str,
        messages: Messages,
        answer: Answer,
        tools: Sequence[ChatCompletionFunctionToolParam] = (),
    ) -> AsyncGenerator[events.Token | RequestedCall, None]:
        asked, first = time.monotonic(), True
        async with aclosing(self._llm.stream(model, messages, tools)) as deltas:
            async for delta in deltas:
                if first:
                    metrics.FIRST_TOKEN_SECONDS.observe(time.monotonic() - asked)
                    first = False
                if isinstance(delta, TokenUsage):
                    answer.usage += delta
                elif isinstance(delta, str):
                    yield answer.say(delta)
                else:
                    yield delta


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:12]}"


def _record(call: RequestedCall, arguments: dict[str, Any], result: str) -> dict[str, Any]:
    return {"id": call.id, "tool": call.name, "arguments": arguments, "result": result}


def _assistant_message(text: str, calls: Sequence[RequestedCall]) -> ChatCompletionAssistantMessageParam:
    functions: list[ChatCompletionMessageFunctionToolCallParam] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
        for call in calls
    ]
    return {"role": "assistant", "content": text, "tool_calls": functions}


def _shown(error: AquatintError) -> events.Error:
    return events.Error(code=type(error).__name__, message=str(error), retryable=not isinstance(error, _PERMANENT))
