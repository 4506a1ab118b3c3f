"""Find a model: in a folder (or PVC), on a hub (``hf://`` or a plain id), or wherever KServe downloads from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from kserve_storage import Storage

from aquatint.contract.errors import HubUnavailable, InvalidConfiguration


def resolve(model_id: str) -> str:
    """Return a local folder or a hub id. Raises ``InvalidConfiguration`` or ``HubUnavailable``."""
    if model_id.startswith("hf://"):
        return model_id.removeprefix("hf://")
    if "://" not in model_id:
        if model_id.startswith("/") and not Path(model_id).is_dir():
            raise InvalidConfiguration("MODEL_ID: there is no such folder")
        return model_id
    target = tempfile.mkdtemp(prefix="aquatint-model-")
    try:
        return str(Storage.download(model_id, target))
    # kserve's storage raises RuntimeError or botocore's own errors, whatever goes wrong.
    except Exception as error:
        shutil.rmtree(target, ignore_errors=True)
        raise HubUnavailable(f"MODEL_ID: the model cannot be downloaded: {type(error).__name__}") from error
