"""``aquatint registry``: publish, list, fetch, deploy, promote, roll back and prune versions of a model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from aquatint.cli.terminal import OUT, clean_errors, log_to_terminal
from aquatint.contract.errors import InvalidRequest, ModelNotFound
from aquatint.registry import service
from aquatint.registry.versions import Registry, files_under
from aquatint.settings import ServerSettings, read_settings
from aquatint.storage import open_objects

registry = typer.Typer(no_args_is_help=True, help="Versions of models, in a folder or in S3.")

Name = Annotated[str, typer.Argument(help="The model.")]
Number = Annotated[int, typer.Argument(help="The version.")]
Store = Annotated[str, typer.Option(envvar="AQUATINT_REGISTRY", help="A folder, or s3://bucket/prefix.")]
Live = Annotated[Path, typer.Option(help="The model repository that the embedded server serves.")]
Prompts = Annotated[
    list[str], typer.Option("--prompt", help="What to generate before and after the switch; repeatable.")
]

_STORE = "build/registry"
_LIVE = Path("build/repository")
_PROMPTS = ["a flat emoji of a fox on a blue background"]


@registry.command()
def publish(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="What to upload; the model repository is its folder 'repository'.")],
    facts: Annotated[str, typer.Option(help="A JSON object to keep with this version.")] = "{}",
    store: Store = _STORE,
) -> None:
    """Upload a folder as the model's next version; it is not in use until it is promoted or deployed."""
    with clean_errors():
        try:
            described = json.loads(facts)
        except json.JSONDecodeError as error:
            raise InvalidRequest(f"facts: must be JSON: {error.msg}") from error
        if not isinstance(described, dict):
            raise InvalidRequest("facts: must be a JSON object")
        version = _open(name, store).publish(files_under(folder), described)
        OUT.print(f"{name} version {version.version}: {len(version.files)} files", highlight=False)


@registry.command("list")
def list_versions(name: Name, store: Store = _STORE) -> None:
    """Show every version, and which is in use."""
    with clean_errors():
        opened = _open(name, store)
        latest = opened.latest()
        table = Table("version", "", "made", "size", "facts")
        for each in opened.versions():
            size = sum(file.size for file in each.files.values())
            mark = "in use" if latest is not None and latest.version == each.version else ""
            made = each.created.strftime("%Y-%m-%d %H:%M")
            table.add_row(str(each.version), mark, made, f"{size / 2**20:.1f} MiB", json.dumps(each.facts))
    OUT.print(table)


@registry.command()
def fetch(name: Name, number: Number, out: Annotated[Path, typer.Argument()], store: Store = _STORE) -> None:
    """Download a version into a new folder and check every file."""
    with clean_errors():
        version = _open(name, store).fetch(number, out)
        OUT.print(f"{out}  {len(version.files)} files of version {number}", highlight=False, soft_wrap=True)


@registry.command()
def promote(name: Name, number: Number, store: Store = _STORE) -> None:
    """Make a version the one in use, for servers that read the pointer; 'deploy' does it for the embedded one."""
    with clean_errors():
        _open(name, store).promote(number)
        OUT.print(f"{name} version {number} is in use", highlight=False)


@registry.command()
def deploy(
    name: Name,
    number: Annotated[int | None, typer.Argument(help="The version; the newest if omitted.")] = None,
    prompt: Prompts = _PROMPTS,
    live: Live = _LIVE,
    store: Store = _STORE,
) -> None:
    """Swap a version into the embedded server without losing a request, and make it the one in use."""
    with clean_errors():
        opened = _open(name, store)
        if number is None:
            versions = opened.versions()
            if not versions:
                raise ModelNotFound(f"there is no version of {name}")
            number = versions[-1].version
        _deploy(opened, number, prompts=prompt, live=live)


@registry.command()
def rollback(name: Name, prompt: Prompts = _PROMPTS, live: Live = _LIVE, store: Store = _STORE) -> None:
    """Return to the version served before, without losing a request."""
    with clean_errors():
        opened = _open(name, store)
        earlier = opened.previous()
        _deploy(opened, earlier, prompts=prompt, live=live)
        OUT.print(f"rolled back to version {earlier}", highlight=False)


@registry.command()
def prune(
    name: Name,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest to keep.")] = 5,
    store: Store = _STORE,
) -> None:
    """Delete old versions, but never the one in use or the one before it."""
    with clean_errors():
        gone = _open(name, store).prune(keep)
        OUT.print(f"deleted: {', '.join(map(str, gone)) or 'nothing'}", highlight=False)


def _open(name: str, store: str) -> Registry:
    return Registry(open_objects(store), name)


def _deploy(opened: Registry, number: int, *, prompts: list[str], live: Path) -> None:
    log_to_terminal(logging.WARNING)
    logging.getLogger("aquatint").setLevel(logging.INFO)
    with service.embedded(live, read_settings(ServerSettings)) as server:
        service.deploy(opened, number, server, prompts=prompts)
    OUT.print(f"{opened.name} version {number} is served", highlight=False)
