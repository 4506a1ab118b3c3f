"""The language model behind any OpenAI-compatible endpoint; its failures become errors of the error table."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

from aquatint.contract.errors import EngineUnavailable, InvalidRequest, Overloaded
from aquatint_chat.settings import ChatSettings

Messages = Sequence[ChatCompletionMessageParam]
_STATUS_TIMEOUT_S = 3.0
_RETRIES = 2


@dataclass(frozen=True)
class RequestedCall:
    """A tool call as the model wrote it; ``arguments`` is its JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class TokenUsage:
    """Tokens read and written by the model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


class LanguageModel:
    """A model of one endpoint: the configured one, or the first it lists."""

    def __init__(self, settings: ChatSettings) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=settings.llm_url,
            api_key=settings.llm_api_key.get_secret_value(),
            timeout=settings.llm_timeout_s,
            max_retries=_RETRIES,
        )
        self._chosen = settings.llm_model
        self._limits = {"max_tokens": settings.max_tokens, "temperature": settings.temperature}

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def model(self) -> str:
        """Ask the endpoint for its models; return the configured or the first one. Raises ``EngineUnavailable``."""
        with _own_errors():
            listed = await self._client.with_options(max_retries=0, timeout=_STATUS_TIMEOUT_S).models.list()
        names = [model.id for model in listed.data]
        if self._chosen is not None and self._chosen not in names:
            raise EngineUnavailable(f"the language model endpoint has no model {self._chosen!r}")
        if not names:
            raise EngineUnavailable("the language model endpoint has no model")
        return self._chosen or names[0]

    async def stream(
        self, model: str, messages: Messages, tools: Sequence[ChatCompletionFunctionToolParam] = (), **options: Any
    ) -> AsyncGenerator[str | RequestedCall | TokenUsage, None]:
        """Yield pieces of text, then requested tool calls, then the usage. Leaving the iteration stops the model."""
        if tools:
            options["tools"] = list(tools)
        calls: dict[int, RequestedCall] = {}
        usage = TokenUsage()
        with _own_errors():
            stream = await self._client.chat.completions.create(
                model=model,
                messages=list(messages),
                stream=True,
                stream_options={"include_usage": True},
                **{**self._limits, **options},
            )
            async with stream:
                async for chunk in stream:
                    if chunk.usage is not None:
                        usage = TokenUsage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                    for choice in chunk.choices:
                        if choice.delta.content:
                            yield choice.delta.content
                        for piece in choice.delta.tool_calls or ():
                            calls[piece.index] = _joined(calls.get(piece.index), piece)
        for _, call in sorted(calls.items()):
            yield call
        yield usage

    async def choose(self, model: str, messages: Messages, choices: Sequence[str]) -> str:
        """Make the model answer with one of ``choices``, by constrained decoding (vLLM's structured outputs)."""
        answer = await self.complete(
            model, messages, max_tokens=8, extra_body={"structured_outputs": {"choice": list(choices)}}
        )
        return answer if answer in choices else choices[0]

    async def complete(self, model: str, messages: Messages, **options: Any) -> str:
        """Return the whole answer, decoded greedily."""
        with _own_errors():
            answer = await self._client.chat.completions.create(
                model=model, messages=list(messages), temperature=0, **options
            )
        return (answer.choices[0].message.content or "").strip()


def _joined(before: RequestedCall | None, piece: ChoiceDeltaToolCall) -> RequestedCall:
    """Add the next piece of the stream to a call: the name comes first, the arguments piece by piece."""
    function = piece.function
    name, arguments = (function.name or "", function.arguments or "") if function is not None else ("", "")
    if before is None:
        return RequestedCall(piece.id or f"call_{piece.index}", name, arguments)
    return RequestedCall(before.id, before.name or name, before.arguments + arguments)


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except openai.APITimeoutError:
        raise EngineUnavailable("the language model took too long to answer") from None
    except openai.APIConnectionError:
        raise EngineUnavailable("the language model cannot be reached; it may still be starting") from None
    except openai.RateLimitError:
        raise Overloaded("the language model is busy; try again soon") from None
    except openai.BadRequestError as error:
        raise InvalidRequest(f"the language model rejected this conversation: {str(error)[:300]}") from None
    except openai.APIError as error:
        raise EngineUnavailable(f"the language model failed: {type(error).__name__}") from None
