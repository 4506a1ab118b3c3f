"""A Kubeflow Pipelines server: run a pipeline there, once or on a schedule."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import kfp
from kfp import compiler
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from aquatint.contract.errors import EngineUnavailable, InvalidRequest
from aquatint_pipelines import pipelines

_EXPERIMENT = "aquatint"


def submit(
    name: str, parameters: dict[str, Any], *, host: str, token: str | None, namespace: str | None, cron: str | None
) -> str:
    """Start a run, or with ``cron`` (six fields, the first is seconds) a recurring one; return its id.

    Raises ``InvalidRequest`` for an unknown pipeline or parameter, or what the server calls invalid;
    ``EngineUnavailable`` if it does not answer or refuses.
    """
    pipeline = pipelines.find(name, parameters)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(package))
        try:
            client = _connect(host, token)
            experiment = client.create_experiment(_EXPERIMENT, namespace=namespace).experiment_id
            if cron is None:
                run = client.run_pipeline(experiment, name, str(package), parameters)
                return str(run.run_id)
            recurring = client.create_recurring_run(
                experiment, name, cron_expression=cron, pipeline_package_path=str(package), params=parameters
            )
            return str(recurring.recurring_run_id)
        except ApiException as error:
            kind = InvalidRequest if error.status == 400 else EngineUnavailable
            raise kind(f"the pipeline server refused: {error.status} {error.reason}") from error
        # The client checks the server's health five times, then gives up with a TimeoutError.
        except (HTTPError, TimeoutError) as error:
            raise EngineUnavailable(f"the pipeline server at {host} does not answer") from error


def _connect(host: str, token: str | None) -> kfp.Client:
    with warnings.catch_warnings():
        # Every client warns that it does not work with Kubeflow Pipelines 1.
        warnings.simplefilter("ignore", FutureWarning)
        return kfp.Client(host=host, existing_token=token)
