"""Prometheus metrics of the chat backend."""

from prometheus_client import Counter, Histogram

_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

TURNS = Counter("aquatint_chat_turns_total", "Turns by outcome: complete, stopped, failed", ["outcome"])
FIRST_TOKEN_SECONDS = Histogram(
    "aquatint_chat_first_token_seconds", "From the request to the language model to its first token", buckets=_LONG
)
TOOL_SECONDS = Histogram("aquatint_chat_tool_seconds", "Duration of tool calls", ["tool"], buckets=_LONG)
