"""Run pipelines, write their YAML, submit them to a server, and draw the demo subject."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from aquatint.cli import extras
from aquatint.cli.terminal import OUT, clean_errors, log_to_terminal
from aquatint.contract.errors import InvalidRequest

pipelines = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

_SUBJECT = Path("pipelines/models/rhdog")


@pipelines.command()
def subject(
    out: Annotated[Path, typer.Option(help="Folder of the images.")] = _SUBJECT,
    cache: Annotated[Path, typer.Option(help="Where npm puts the emoji.")] = Path("build/npm"),
) -> None:
    """Draw the demo subject again: five images of a dog with a red hat."""
    from aquatint_pipelines.dreambooth import subject as subjects  # noqa: PLC0415 - each command loads what it needs

    for path in subjects.write(out, cache):
        OUT.print(str(path), highlight=False)


@pipelines.command("compile")
def compile_pipelines(
    out: Annotated[Path, typer.Option(help="Folder of the YAML files.")] = Path("build/pipelines"),
) -> None:
    """Write every pipeline as YAML for a Kubeflow Pipelines server."""
    from kfp import compiler  # noqa: PLC0415

    from aquatint_pipelines import pipelines as definitions  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    for name, pipeline in definitions.ALL.items():
        compiler.Compiler().compile(pipeline, str(out / f"{name}.yaml"))
        OUT.print(str(out / f"{name}.yaml"), highlight=False)


PipelineArgument = Annotated[str, typer.Argument(help="The pipeline's name, such as dreambooth-to-production.")]
ParameterOption = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE; JSON where it is no text; repeatable.")
]


@pipelines.command()
def run(
    pipeline: PipelineArgument,
    parameter: ParameterOption = None,
    root: Annotated[Path, typer.Option(help="Where the steps' outputs go.")] = Path("build/pipelines/runs"),
) -> None:
    """Run a pipeline on this machine, every step in a process of its own."""
    from aquatint_pipelines import local  # noqa: PLC0415

    log_to_terminal(logging.INFO, quiet=("httpx", "urllib3"))
    with clean_errors():
        local.run(pipeline, _parsed(parameter or []), root)


@pipelines.command()
def submit(
    pipeline: PipelineArgument,
    host: Annotated[str, typer.Option(help="Address of the Kubeflow Pipelines server.")],
    parameter: ParameterOption = None,
    token: Annotated[str | None, typer.Option(envvar="KFP_TOKEN", help="Bearer token, if it asks for one.")] = None,
    namespace: Annotated[str | None, typer.Option(help="For servers of several users.")] = None,
    cron: Annotated[
        str | None, typer.Option(help="Six fields, seconds first: '0 0 3 * * *' runs it every night at three.")
    ] = None,
) -> None:
    """Run a pipeline on a Kubeflow Pipelines server, once or by schedule; prints the run's id."""
    from aquatint_pipelines import cluster  # noqa: PLC0415

    with clean_errors():
        values = _parsed(parameter or [])
        run_id = cluster.submit(pipeline, values, host=host, token=token, namespace=namespace, cron=cron)
        OUT.print(run_id, highlight=False)


def _parsed(parameters: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in parameters:
        name, equals, value = each.partition("=")
        if not equals:
            raise InvalidRequest(f"parameter: {each!r} is not NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def add(app: typer.Typer) -> None:
    """Add the commands of this component."""
    app.add_typer(pipelines, name="pipelines")


def main() -> None:
    """Run ``aquatint-pipelines``."""
    with extras.needs("pipelines", "aquatint-pipelines"):
        pipelines()
