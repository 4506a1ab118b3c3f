"""Where a model comes from: a folder (a PVC too), ``hf://`` or a plain hub id, ``s3://`` and what KServe fetches."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from kserve_storage import Storage

from aquatint.contract.errors import HubUnavailable, InvalidConfiguration


def resolve(model_id: str) -> str:
    """A local folder, or a hub id, for the pipeline loader. Raises ``ModelRejected``."""
    if model_id.startswith("hf://"):
        return model_id.removeprefix("hf://")
    if "://" not in model_id:
        if model_id.startswith("/") and not Path(model_id).is_dir():
            raise InvalidConfiguration("MODEL_ID: there is no such folder")
        return model_id
    target = tempfile.mkdtemp(prefix="aquatint-model-")
    try:
        return str(Storage.download(model_id, target))
    # kserve's storage raises RuntimeError, and botocore's own errors, for whatever goes wrong.
    except Exception as error:
        shutil.rmtree(target, ignore_errors=True)
        raise HubUnavailable(f"MODEL_ID: the model cannot be fetched: {type(error).__name__}") from error
