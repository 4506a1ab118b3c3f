"""One turn: the user's message goes in, events come out, and both sides are stored whatever happens."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
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
from aquatint_chat import events, metrics, store, views, wording
from aquatint_chat.errors import ConversationNotFound
from aquatint_chat.events import Event
from aquatint_chat.history import past_of, tool_messages
from aquatint_chat.llm import LanguageModel, Messages, RequestedCall, TokenUsage
from aquatint_chat.router import Router, talk_messages
from aquatint_chat.settings import ChatSettings, Intent
from aquatint_chat.store import ChatStore, Conversation, Message
from aquatint_chat.toolbox import Toolbox, ToolProgress, ToolResult

_log = logging.getLogger("aquatint.chat")

_PERMANENT = (InvalidRequest, errors.Forbidden, errors.ModelNotFound, ConversationNotFound)
_NOT_STORED = views.Failure(code="StoreUnavailable", message="this answer could not be stored", retryable=True)


class _ImageSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    # The only setting that a turn reads itself.
    num_images: int | None = None


if TYPE_CHECKING:
    ImageSettings = _ImageSettings
else:
    # The page's settings for images; they override what a language model chooses.
    _SETTINGS = [name for name in GenerationRequest.model_fields if name not in ("prompt", "preview_every")]
    ImageSettings = create_model("ImageSettings", __base__=_ImageSettings, **model_fields(_SETTINGS, optional=True))


class TurnRequest(BaseModel):
    """A message from the user. For edit and retry, ``replace_message_id`` is the earlier message that it replaces."""

    model_config = ConfigDict(extra="forbid")

    content: str = Field(min_length=1, max_length=32_000, pattern=r"\S")
    conversation_id: str | None = None
    replace_message_id: int | None = None
    image: ImageSettings = ImageSettings()


class Answer:
    """What the assistant has said and generated so far."""

    def __init__(self, owner: str, conversation_id: str) -> None:
        self.text = ""
        self.calls: list[views.FinishedToolCall] = []
        self.images: list[store.Image] = []
        self.usage = TokenUsage()
        self.status: Literal["complete", "stopped", "failed"] = "stopped"
        self.error: views.Failure | None = None
        self._owner = owner
        self._conversation_id = conversation_id
        self._began = time.monotonic()

    def say(self, text: str) -> events.TokenEvent:
        """Add to the text."""
        self.text += text
        return events.TokenEvent(data=events.Token(text=text))

    def add(self, call_id: str, result: ToolResult, *, prompt: str) -> list[events.ImageEvent]:
        """Add a tool's images; ``prompt`` is theirs if the tool reports none."""
        added = []
        for made in result.images:
            parameters = {**result.structured.get("parameters", {})}
            image = store.Image(
                id=uuid.uuid4().hex,
                owner=self._owner,
                conversation_id=self._conversation_id,
                prompt=str(parameters.get("prompt", prompt)),
                seed=made.seed,
                parameters=parameters,
                media_type=made.media_type,
                data=made.data,
            )
            self.images.append(image)
            added.append(events.ImageEvent(data=events.NewImage(id=call_id, image=views.image(image))))
        return added

    def usage_so_far(self) -> views.Usage:
        """Count tokens and seconds since the turn began."""
        return views.Usage(
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            seconds=round(time.monotonic() - self._began, 3),
        )

    def message(self) -> Message:
        """Make the row to store."""
        return Message(
            role="assistant",
            content=self.text,
            status=self.status,
            error=self.error and self.error.model_dump(),
            tool_calls=[call.model_dump() for call in self.calls],
            usage=self.usage_so_far().model_dump(),
            images=self.images,
        )


@dataclass(frozen=True)
class _Turn:
    """A turn under way: what was asked, where, and the answer so far."""

    request: TurnRequest
    conversation: Conversation
    answer: Answer


class Turns:
    """Runs turns over one language model, one toolbox and one store."""

    def __init__(self, llm: LanguageModel, toolbox: Toolbox, store: ChatStore, *, settings: ChatSettings) -> None:
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
        """Yield the turn's events. Leaving the iteration stops model and tools and stores the answer so far.

        Raises:
            AquatintError: Before the first event, if the user's message could not be stored.
        """
        # Turns of one conversation run one after the other: even a stopped one is stored before the next begins.
        lock = self._locks.setdefault(request.conversation_id or uuid.uuid4().hex, asyncio.Lock())
        await lock.acquire()
        try:
            conversation, message = await self._store.begin_turn(
                owner,
                request.content,
                conversation_id=request.conversation_id,
                replace_from=request.replace_message_id,
            )
        except BaseException:
            lock.release()
            raise
        self._locks[conversation.id] = lock
        answer = Answer(owner, conversation.id)
        try:
            yield events.StartEvent(data=_exchange(conversation, message))
            async with aclosing(self._answer(_Turn(request, conversation, answer))) as answering:
                async for event in answering:
                    yield event
            answer.status = "complete"
        # The boundary to the page: every failure becomes an event.
        except Exception as error:
            answer.status, answer.error = "failed", _failure(errors.internal(error))
            yield events.ErrorEvent(data=answer.error)
        finally:
            metrics.TURNS.labels(outcome=answer.status).inc()
            # The task outlives a page that went away.
            saving = asyncio.create_task(self._save(conversation.id, answer, lock))
            self._saving.add(saving)
            saving.add_done_callback(self._saving.discard)
        yield events.UsageEvent(data=answer.usage_so_far())
        stored = await asyncio.shield(saving)
        if stored is None:
            yield events.ErrorEvent(data=_NOT_STORED)
        else:
            yield events.DoneEvent(data=_exchange(conversation, stored))

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

    async def _answer(self, turn: _Turn) -> AsyncGenerator[Event, None]:
        """Let the model answer with tools, or the router; without a model, the router does what wording decides."""
        model: str | None = None
        unreachable: AquatintError | None = None
        if wording.commanded(turn.request.content) is None:
            try:
                model = await self._llm.model()
            except EngineUnavailable as error:
                unreachable = error
        if model is not None and self._settings.intent_for(model)[0] is Intent.TOOLS:
            parts = self._with_tools(model, turn)
        else:
            parts = self._by_parts(model, unreachable, turn)
        async with aclosing(parts):
            async for event in parts:
                yield event

    async def _by_parts(
        self, model: str | None, unreachable: AquatintError | None, turn: _Turn
    ) -> AsyncGenerator[Event, None]:
        """Let the router plan, and do the parts one after the other."""
        router, past = Router(self._llm, model), past_of(turn.conversation.messages[:-1])
        for number, part in enumerate(await router.plan(turn.request.content, past)):
            if number:
                yield turn.answer.say("\n\n")
            if part.prompt is not None:
                async with aclosing(self._generate(part.prompt, turn)) as generating:
                    async for event in generating:
                        yield event
            elif model is None:
                assert unreachable is not None
                raise EngineUnavailable(f"{unreachable}. Pictures still work: begin with “draw” or {wording.COMMAND}")
            elif (memory := await router.recall(part.text, past)) is not None:
                yield turn.answer.say(memory)
            else:
                async with aclosing(self._stream(model, talk_messages(part.text, past), turn.answer)) as deltas:
                    async for delta in deltas:
                        if isinstance(delta, events.TokenEvent):
                            yield delta

    async def _generate(self, prompt: str, turn: _Turn) -> AsyncGenerator[Event, None]:
        call = RequestedCall(_call_id(), self._settings.draw_tool, "")
        async with aclosing(self._call(call, {"prompt": prompt}, turn)) as calling:
            async for event in calling:
                yield event
        count = turn.request.image.num_images or 1
        yield turn.answer.say(f"Here is {prompt}." if count == 1 else f"Here are {count} pictures of {prompt}.")

    async def _with_tools(self, model: str, turn: _Turn) -> AsyncGenerator[Event, None]:
        """Let the model talk and call tools, at most ``max_rounds`` times, until it calls no more."""
        answer = turn.answer
        messages = tool_messages(turn.conversation.messages, self._settings)
        tools = [tool.for_llm() for tool in (await self._toolbox.tools()).values()]
        for round_number in range(self._settings.max_rounds + 1):
            # After the last round the model must put what it has into words.
            offered = tools if round_number < self._settings.max_rounds else []
            said, wanted = len(answer.text), list[RequestedCall]()
            async with aclosing(self._stream(model, messages, answer, tools=offered)) as deltas:
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
                async with aclosing(self._requested(call, turn)) as calling:
                    async for event in calling:
                        yield event
                messages.append({"role": "tool", "tool_call_id": call.id, "content": answer.calls[-1].result})

    async def _requested(self, call: RequestedCall, turn: _Turn) -> AsyncGenerator[Event, None]:
        """Make a call that the model wants; if it is wrong, the result tells the model, which may try again."""
        try:
            arguments = json.loads(call.arguments or "{}")
            if not isinstance(arguments, dict):
                raise ValueError
        except ValueError:
            turn.answer.calls.append(_record(call, {}, "InvalidRequest: the arguments are not a JSON object"))
            return
        try:
            async with aclosing(self._call(call, arguments, turn)) as calling:
                async for event in calling:
                    yield event
        except InvalidRequest as error:
            turn.answer.calls.append(_record(call, arguments, errors.to_wire(error)))

    async def _call(self, call: RequestedCall, arguments: dict[str, Any], turn: _Turn) -> AsyncGenerator[Event, None]:
        """Call a tool, with the page's settings for the fields that it has."""
        tool = await self._toolbox.tool(call.name)
        if tool.name == self._settings.draw_tool:
            chosen = turn.request.image.model_dump(exclude_none=True)
            arguments = {**arguments, **{k: v for k, v in chosen.items() if k in tool.schema.get("properties", {})}}
        yield events.ToolCallEvent(data=views.ToolCall(id=call.id, tool=tool.name, arguments=arguments))
        with metrics.TOOL_SECONDS.labels(tool=tool.name).time():
            async with aclosing(self._toolbox.call(tool.name, arguments)) as running:
                async for event in running:
                    if isinstance(event, ToolProgress):
                        yield _progress(call.id, event)
                        continue
                    turn.answer.calls.append(_record(call, arguments, event.text))
                    for image in turn.answer.add(call.id, event, prompt=str(arguments.get("prompt", ""))):
                        yield image

    async def _stream(
        self,
        model: str,
        messages: Messages,
        answer: Answer,
        *,
        tools: Sequence[ChatCompletionFunctionToolParam] = (),
    ) -> AsyncGenerator[events.TokenEvent | RequestedCall, None]:
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


def _record(call: RequestedCall, arguments: dict[str, Any], result: str) -> views.FinishedToolCall:
    return views.FinishedToolCall(id=call.id, tool=call.name, arguments=arguments, result=result)


def _progress(call_id: str, made: ToolProgress) -> events.ProgressEvent:
    progress = events.Progress(id=call_id, progress=made.progress, total=made.total, preview=made.preview)
    return events.ProgressEvent(data=progress)


def _exchange(conversation: Conversation, message: Message) -> events.Exchange:
    return events.Exchange(conversation=views.summary(conversation), message=views.message(message))


def _assistant_message(text: str, calls: Sequence[RequestedCall]) -> ChatCompletionAssistantMessageParam:
    functions: list[ChatCompletionMessageFunctionToolCallParam] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
        for call in calls
    ]
    return {"role": "assistant", "content": text, "tool_calls": functions}


def _failure(error: AquatintError) -> views.Failure:
    return views.Failure(code=type(error).__name__, message=str(error), retryable=not isinstance(error, _PERMANENT))
