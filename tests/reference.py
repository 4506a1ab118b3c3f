"""Write ``docs/reference`` from the code, or with ``--check`` name the pages that are stale.

python -m tests.reference [--check]
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import importlib
import json
import re
import sys
import tempfile
import tomllib
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import click
import typer
from aquatint_chat import events as chat_events
from aquatint_chat.app import create_app as create_chat_app
from aquatint_chat.settings import ChatSettings
from aquatint_mcp.app import create_app as create_mcp_app
from aquatint_mcp.server import build_server
from aquatint_mcp.settings import McpSettings
from fastapi import FastAPI
from fastmcp import Client
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings
from typer.cli import get_docs_for_click

from aquatint.cli.app import app as command_line
from aquatint.contract import errors, fields, wire
from aquatint.contract.model_info import ModelInfo
from aquatint.contract.request import MAX_SEED, GenerationRequest
from aquatint.http import triton_http
from aquatint.images import ImageStore
from aquatint.settings import ApiSettings
from aquatint.storage import FileObjects
from aquatint.testing import FakeGenerator

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
_NOTE = "<!-- Written from the code by `make docs`; change it there. -->"
_LONGEST_DEFAULT = 60
_ACRONYMS = ("Api", "Llm", "Mcp")
# Read where no settings class is at hand.
OTHER_VARIABLES = {
    "AQUATINT_HOME": "Folder of everything that `aquatint run` keeps; by default `~/.local/share/aquatint`.",
    "AQUATINT_REGISTRY": "Versions of models: a folder or `s3://bucket/prefix`; by default `build/registry`.",
    "AQUATINT_JUDGE": "Folder of the model that scores images; by default the bundled one.",
    "AQUATINT_PIPELINES_GPUS": "GPUs of a step that computes, when pipelines are compiled; by default 1.",
    "AQUATINT_PIPELINES_IMAGE": "The image of every step, when pipelines are compiled.",
    "AWS_ACCESS_KEY_ID": "Credentials of S3; this and all other variables of AWS are read by boto3.",
    "HF_TOKEN": "Token for gated checkpoints of the Hugging Face hub.",
    "KFP_TOKEN": "Token for `aquatint pipelines submit`.",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Where the chat and the MCP server send traces; without it they send none.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 if a page is stale")
    if parser.parse_args(arguments).check:
        old = stale()
        print(*(f"docs/reference/{name} is stale: make docs" for name in old), sep="\n", end="\n" if old else "")
        return bool(old)
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
    return 0


def stale() -> list[str]:
    """Name the pages whose text is not what the code says, and those that nothing writes."""
    strange = [path.name for path in sorted(FOLDER.iterdir()) if path.name not in PAGES]
    return strange + [
        name for name, page in PAGES.items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != page()
    ]


def request_page() -> str:
    """Every field of a request and every output of a model."""
    rows = []
    for name, field in GenerationRequest.model_fields.items():
        tensor = fields.TENSORS.get(name)
        meaning = (field.description or "") + (" Streams only." if tensor is not None and tensor.stream_only else "")
        kind = "by the model's name" if tensor is None else tensor.datatype
        rows.append((f"`{name}`", kind, _default(field), _limits(field.metadata), meaning))
    outputs = [
        (f"`{name}`", output.type.datatype, f"`{list(output.dims)}`".replace("-1", "n"))
        for name, output in wire.OUTPUTS.items()
    ]
    info = [(f"`{name}`", _type(field.annotation), _default(field)) for name, field in ModelInfo.model_fields.items()]
    return _page(
        "The request",
        "`aquatint.contract.request` defines these fields, and every server validates with it: Triton's models, the "
        "KServe runtime, MCP tools, the images API and the command line. As a Triton tensor each has the shape `[1]`. "
        "Unknown fields are refused.",
        _table(("field", "datatype", "default", "limit", "meaning"), rows),
        "Text is stripped, must be UTF-8, and has at most 4096 bytes. `width` and `height` must be multiples of the "
        "model's `pixel_unit` from its `min_size` to its `max_size`; `sampler` one of its `samplers`; `preview_every` "
        "at most the number of steps.",
        "## The answer",
        _table(("output", "datatype", "shape"), outputs),
        "[gRPC and HTTP](../guides/http-grpc.md#the-answer) says what they hold.",
        "## A model's description",
        "`client.models()`, and the parameter `aquatint_model` of a model's Triton configuration.",
        _table(("field", "type", "default"), info),
    )


def settings_page() -> str:
    """Every environment variable."""
    sections = []
    for kind in settings_classes():
        rows = [
            (_variables(name, field, kind), _type(field.annotation), _default(field), _limits(field.metadata),
             _plain(field.description or ""))
            for name, field in kind.model_fields.items()
        ]  # fmt: skip
        sections += [
            f"## {_words(kind.__name__.removesuffix('Settings'))}",
            _plain((kind.__doc__ or "").split("\n\n")[0]) + f" (`{kind.__module__}.{kind.__name__}`)",
            _table(("variable", "type", "default", "limit", "meaning"), rows),
        ]
    return _page(
        "Settings",
        "Programs take their settings from environment variables, and most from a file `.env` in the working folder "
        "too. Lists and objects are written as JSON. A value that cannot be used ends the program with the variable's "
        "name.",
        *sections,
        "## Others",
        _table(("variable", "meaning"), [(f"`{name}`", meaning) for name, meaning in OTHER_VARIABLES.items()]),
    )


def cli_page() -> str:
    """The help of every command."""
    command = typer.main.get_command(command_line)
    context = click.Context(command, info_name="aquatint", max_content_width=120)  # type: ignore[arg-type]
    text = get_docs_for_click(obj=command, ctx=context, name="aquatint")  # type: ignore[arg-type]
    _, _, rest = text.partition("\n")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    others = ", ".join(f"`{name}`" for name in scripts if name != "aquatint")
    return _page(
        "Commands",
        f"`aquatint` and what the installed components add to it. {others} are programs too, and do the same as the "
        "commands of those names.",
        rest.strip(),
    )


def errors_page() -> str:
    """The table of errors."""
    rows = []
    for kind, depth in _tree(errors.AquatintError):
        mapping = next(errors.TABLE[base] for base in kind.__mro__ if base in errors.TABLE)
        meaning = _plain((kind.__doc__ or "").split("\n\n")[0])
        rows.append((f"{'&emsp;' * depth}`{kind.__name__}`", str(mapping.http), f"`{mapping.grpc}`", meaning))
    return _page(
        "Errors",
        "Every error has a name, and starts with it over every protocol: `InvalidRequest: prompt: must not be empty`. "
        "The message says what was wrong, what the limit is and what to do. Triton has fewer codes than gRPC, so "
        "that over its ports the name counts and not the code; our clients raise the exception of that name.",
        _table(("error", "HTTP", "gRPC", "raised when"), rows),
        "`aquatint.contract.errors` holds the one table. An indented error is a kind of the one above it. The images "
        'API answers in OpenAI\'s shape, KServe V1 with `{"error": …}`.',
    )


def http_page() -> str:
    """Every path of the HTTP servers."""
    runtime = FastAPI()
    runtime.include_router(triton_http(FakeGenerator()))
    return _page(
        "HTTP API",
        "From the OpenAPI descriptions of the servers, which they also answer themselves at `/openapi.json`. Triton's "
        "own paths are in [gRPC and HTTP](../guides/http-grpc.md), errors in [Errors](errors.md).",
        "## `aquatint mcp`",
        "By default on port 8080. `/mcp` speaks [MCP](mcp.md).",
        *_operations(_mcp_app()),
        "## `aquatint chat`",
        "By default on port 8080 alone, and on 8090 under `aquatint run`.",
        *_operations(create_chat_app(ChatSettings.model_construct(), ApiSettings.model_construct())),
        *_chat_events(),
        "## `aquatint runtime`",
        "KServe's V1 and V2 over REST, `/v1/images/generations` and `/v1/models/{model}:predict` as above, and:",
        *_operations(runtime),
    )


def mcp_page() -> str:
    """Tools, resources and prompts, as an MCP client sees them."""
    return asyncio.run(_mcp_page())


def metrics_page() -> str:
    """Every metric that our code defines."""
    found = sorted(set(_metrics()))
    sections = []
    for where in dict.fromkeys(part for part, _, _ in found):
        rows = [(f"`{name}`", meaning) for part, name, meaning in found if part == where]
        sections += [f"## {where}", _table(("metric", "meaning"), rows)]
    return _page(
        "Metrics",
        "Prometheus text. Triton has its own (`nv_*`) and those of our backends at "
        "`http://127.0.0.1:8002/metrics`; `aquatint mcp` and `aquatint chat` have theirs at `/metrics` of their ports, "
        "with Python's process metrics. A name that ends in `_total` is a counter.",
        *sections,
    )


def settings_classes() -> list[type[BaseSettings]]:
    """Return every settings class of every package, the core's first."""
    found: dict[str, type[BaseSettings]] = {}
    for module, path in _modules():
        if "(BaseSettings):" in path.read_text():
            for each in vars(importlib.import_module(module)).values():
                if isinstance(each, type) and issubclass(each, BaseSettings) and each.__module__ == module:
                    found[f"{module}.{each.__name__}"] = each
    return sorted(found.values(), key=lambda kind: kind.__module__ != "aquatint.settings")


def variables_in_code() -> set[str]:
    """Return our environment variables that the code names anywhere as a whole string."""
    name = re.compile(r"AQUATINT_[A-Z0-9_]+[A-Z0-9]")
    return {text for _, path in _modules() for text in _strings(path) if name.fullmatch(text)}


@functools.cache
def _modules() -> list[tuple[str, Path]]:
    """Return the name and the file of every module that is installed."""
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    found = []
    for package, folder in folders.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append((".".join([package, *(part for part in parts if part != "__init__")]), path))
    return found


def _strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _metrics() -> Iterator[tuple[str, str, str]]:
    """Find a metric's name followed by its description, as arguments of a call or in a tuple."""
    for module, path in _modules():
        where = "Triton's models" if module.startswith("aquatint_backends.") else f"`{module.split('.')[0]}`"
        for node in ast.walk(ast.parse(path.read_text())):
            values = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
            texts = [
                each.value for each in values[:2] if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            if len(texts) == 2 and re.fullmatch(r"aquatint_[a-z_]+", texts[0]) and " " in texts[1]:
                yield where, texts[0], texts[1] + "."


def _mcp_app() -> FastAPI:
    store = ImageStore(FileObjects(Path(tempfile.gettempdir())), b"", "")
    return create_mcp_app(
        FakeGenerator(), store, ApiSettings.model_construct(), mcp_settings=McpSettings.model_construct()
    )


async def _mcp_page() -> str:
    store = ImageStore(FileObjects(Path(tempfile.gettempdir())), b"", "")
    defaults = McpSettings.model_construct()
    server = build_server(
        FakeGenerator(), store, inline_bytes=defaults.inline_bytes, preview_every=defaults.preview_every
    )
    async with Client(server) as client:
        tools, prompts = await client.list_tools(), await client.list_prompts()
        resources, templates = await client.list_resources(), await client.list_resource_templates()
    parts = ["## Tools"]
    for tool in tools:
        parts += [f"### `{tool.name}`", _plain(tool.description or ""), _schema_table(tool.input_schema)]
    parts += ["## Resources"]
    rows = [(f"`{each.uri}`", _plain(each.description or "")) for each in resources]
    rows += [(f"`{each.uri_template}`", _plain(each.description or "")) for each in templates]
    parts += [_table(("address", "what it is"), rows), "## Prompts"]
    for prompt in prompts:
        arguments = ", ".join(f"`{each.name}`" for each in prompt.arguments or [])
        parts += [f"### `{prompt.name}`", _plain(prompt.description or ""), f"Arguments: {arguments}."]
    return _page("MCP", "What an MCP client finds at `/mcp`, or over stdio.", *parts)


def _chat_events() -> Iterator[str]:
    """Describe each event by its class; the field that can only be its name names it."""
    rows = []
    for kind in typing.get_args(chat_events.Event):
        names = {
            name: field.default
            for name, field in kind.model_fields.items()
            if typing.get_origin(field.annotation) is typing.Literal
        }
        others = ", ".join(f"`{name}`" for name in kind.model_fields if name not in names)
        rows.append((f"`{next(iter(names.values()))}`", others, _plain(kind.__doc__ or "")))
    yield "### Events of a turn"
    yield "`POST /api/v1/chat/completions` answers with these as server-sent events; `data` has the fields as JSON."
    yield _table(("event", "fields", "when"), rows)


def _operations(app: FastAPI) -> Iterator[str]:
    with warnings.catch_warnings():
        # GET and HEAD of one function have one name.
        warnings.filterwarnings("ignore", message="Duplicate Operation ID")
        specification = app.openapi()
    schemas = _Schemas(specification.get("components", {}).get("schemas", {}))
    for path, operations in specification["paths"].items():
        for method, operation in operations.items():
            if method != "head":
                yield f"### `{method.upper()} {path}`"
                yield _plain(operation.get("description") or operation.get("summary", ""))
                yield from _inputs(operation, schemas)
                yield from _answers(operation["responses"], schemas)


def _inputs(operation: dict[str, Any], schemas: _Schemas) -> Iterator[str]:
    rows = [
        (f"`{each['name']}`", each["in"], *_schema_cells(each["schema"], required=each["required"]))
        for each in operation.get("parameters", [])
    ]
    yield _table(("parameter", "in", "type", "default", "limit"), rows)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield from schemas.tables("The body:", content["schema"])


def _answers(responses: dict[str, Any], schemas: _Schemas) -> Iterator[str]:
    """Describe what a success holds, where the server says it."""
    for status, response in responses.items():
        for media, content in response.get("content", {}).items():
            if status.startswith("2"):
                yield from schemas.tables(f"Answers {status}, `{media}`:", content.get("schema", {}))


class _Schemas:
    """A server's named objects; each is described where it is first met."""

    def __init__(self, named: dict[str, Any]) -> None:
        self._named = named
        self._described: set[str] = set()

    def tables(self, title: str, schema: dict[str, Any]) -> Iterator[str]:
        """Describe an object, and those in it that were not met before."""
        own = self._named.get(_reference(schema), schema)
        self._described.add(_reference(schema))
        if own.get("properties"):
            yield title
            yield _schema_table(own)
        for name in dict.fromkeys(_references(own)):
            if name not in self._described:
                yield from self.tables(f"`{name}`:", {"$ref": name})


def _reference(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rsplit("/", maxsplit=1)[-1]


def _references(schema: Any) -> Iterator[str]:
    """Find the names that a schema refers to, however deep."""
    if isinstance(schema, dict):
        if name := _reference(schema):
            yield name
        for each in schema.values():
            yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


def _schema_table(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", *_schema_cells(each, required=name in required), _plain(each.get("description", "")))
        for name, each in schema.get("properties", {}).items()
    ]
    return _table(("field", "type", "default", "limit", "meaning"), rows)


_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "length ≥ {}",
    "maxLength": "length ≤ {}",
    "minItems": "length ≥ {}",
    "maxItems": "length ≤ {}",
}


def _schema_cells(schema: dict[str, Any], *, required: bool) -> tuple[str, str, str]:
    """Return type, default and limits of a JSON schema."""
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    limits = [text.format(_number(each[key])) for each in options for key, text in _BOUNDS.items() if key in each]
    default = "required" if required else _value(schema.get("default"))
    return " or ".join(map(_schema_type, options)), default, ", ".join(limits)


def _schema_type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return f"`{_reference(schema)}`"
    if schema.get("type") == "array":
        return f"list of {_schema_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _tree(kind: type[Any], depth: int = 0) -> Iterator[tuple[type[Any], int]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("aquatint"):
            yield each, depth
            yield from _tree(each, depth + 1)


def _variables(name: str, field: FieldInfo, kind: type[BaseSettings]) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        names = [str(each) for each in alias.choices]
    else:
        names = [str(alias or f"{kind.model_config.get('env_prefix', '')}{name}".upper())]
    return " or ".join(f"`{each}`" for each in names)


def _type(annotation: Any) -> str:
    options = [each for each in typing.get_args(annotation) if each is not types.NoneType]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{each}`" for each in options)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(map(_type, options))
    if typing.get_origin(annotation) in (list, tuple):
        return f"list of {_type(options[0])}"
    if typing.get_origin(annotation) is dict:
        return "object"
    name = str(annotation.__name__)
    return {"str": "text", "SecretStr": "secret", "Path": "path"}.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    return "required" if field.default is PydanticUndefined else _value(field.default)


def _value(value: Any) -> str:
    """Write a default; what depends on this machine or is long is built in."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Enum):
        value = value.value
    if value is None or value == "":
        return ""
    if isinstance(value, (str, Path)):
        built_in = len(str(value)) > _LONGEST_DEFAULT or (isinstance(value, Path) and value.is_absolute())
        return "built in" if built_in else f"`{value}`"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value)
    return f"`{json.dumps(value)}`"


def _number(value: float) -> str:
    """Write a number, and whole multiples of 1024 * 1024 or so in their unit too."""
    if value >= MAX_SEED:
        return "2^63 - 1"
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= 64 << 10 and value % unit == 0:
            return f"`{value:.0f}` ({value // unit:.0f} {name})"
    return f"`{value:.10g}`"


def _limits(metadata: Iterable[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {_number(getattr(each, name))}"
        for each in metadata
        for name, sign in signs.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join(found)


def _words(name: str) -> str:
    """``TextToImage`` to ``Text to image``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return words.upper() if words in _ACRONYMS else words.capitalize()


def _plain(text: str) -> str:
    """Turn a docstring's literals into Markdown's, on one line."""
    return " ".join(text.replace("``", "`").split())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table without the columns that are empty; nothing where there are no rows."""
    lines = list(rows)
    kept = [index for index in range(len(head)) if any(row[index] for row in lines)]
    if not kept:
        return ""
    escaped = [[row[index].replace("|", "\\|") for index in kept] for row in lines]
    texts = [[head[index] for index in kept], ["---"] * len(kept), *escaped]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in texts)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", _NOTE, *filter(None, parts)]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "request.md": request_page,
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "http.md": http_page,
    "mcp.md": mcp_page,
    "metrics.md": metrics_page,
}


if __name__ == "__main__":
    sys.exit(main())
