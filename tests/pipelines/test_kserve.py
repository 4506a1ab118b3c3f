"""The deploy step against an InferenceService kept in memory; nothing here has met a cluster."""

from __future__ import annotations

import contextlib
import copy
import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aquatint_pipelines import kserve, steps
from aquatint_pipelines.kserve import InferenceService
from kubernetes.client.exceptions import ApiException

from aquatint.errors import BundleRejected, EngineUnavailable, ModelNotFound
from aquatint.registry import Registry
from aquatint.storage import FileObjects
from tests.deploy.manifests import build, schema_of

NEW, BAD = "s3://models/mini/2/repository", "s3://models/mini/3/repository"


class Cluster:
    """One InferenceService; its controller sees a change at the second look and cannot load ``BAD``."""

    def __init__(self) -> None:
        (service,) = [each for each in build("triton-s3") if each["kind"] == "InferenceService"]
        self.service = copy.deepcopy(service)
        self.service["metadata"]["generation"] = 1
        self.service["status"] = {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}
        self.patches: list[dict[str, Any]] = []
        self.refuse: int | None = None

    def get_namespaced_custom_object(self, *address: str) -> dict[str, Any]:
        assert address[:4] == ("serving.kserve.io", "v1beta1", "images", "inferenceservices")
        if address[4] != "aquatint":
            raise ApiException(status=404)
        seen = copy.deepcopy(self.service)
        self._reconcile()
        return seen

    def patch_namespaced_custom_object(self, *address: Any) -> dict[str, Any]:
        if self.refuse:
            raise ApiException(status=self.refuse, reason="Forbidden")
        self.patches.append(address[5])
        merge(self.service, address[5])
        self.service["metadata"]["generation"] += 1
        schema = schema_of(self.service)
        assert schema is not None
        jsonschema.Draft202012Validator(schema["properties"]["spec"] | {"components": schema["components"]}).validate(
            self.service["spec"]
        )
        return self.service

    def _reconcile(self) -> None:
        failed = self.uri == BAD
        self.service["status"] = {
            "observedGeneration": self.service["metadata"]["generation"],
            "conditions": [{"type": "Ready", "status": "False" if failed else "True"}],
            "modelStatus": {
                "transitionStatus": "BlockedByFailedLoad" if failed else "UpToDate",
                "lastFailureInfo": {"message": "no such key"} if failed else {},
            },
        }

    @property
    def uri(self) -> str:
        return str(self.service["spec"]["predictor"]["model"]["storageUri"])


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def service(cluster: Cluster) -> InferenceService:
    return InferenceService(cluster, "images", "aquatint", poll_s=0.01)


def test_deploy(cluster: Cluster, service: InferenceService) -> None:
    before = cluster.uri
    assert service.deploy(NEW, None, 5.0) == before
    assert cluster.uri == NEW


def test_a_canary_is_promoted_or_rolled_back(cluster: Cluster, service: InferenceService) -> None:
    before = service.deploy(NEW, 10, 5.0)
    assert cluster.service["spec"]["predictor"]["canaryTrafficPercent"] == 10
    service.promote()
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]
    service.roll_back(before)
    assert cluster.uri == before


def test_a_trial_gives_a_canary_everything(cluster: Cluster, service: InferenceService) -> None:
    seen: list[object] = []

    def trial() -> None:
        seen.append(cluster.service["spec"]["predictor"]["canaryTrafficPercent"])

    service.deploy(NEW, 10, 5.0, trial)
    assert seen == [10]
    assert cluster.uri == NEW
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


def test_a_version_that_cannot_draw_is_taken_back(cluster: Cluster, service: InferenceService) -> None:
    def trial() -> None:
        raise BundleRejected("version 2 draws blank pictures")

    before = cluster.uri
    with pytest.raises(BundleRejected, match="blank"):
        service.deploy(NEW, 10, 5.0, trial)
    assert cluster.uri == before
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


@pytest.mark.parametrize(("canary", "url", "in_use"), [(0, "", 1), (10, "", None), (10, "127.0.0.1:9", None)])
def test_the_step_moves_the_pointer_when_all_traffic_moved(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: int, url: str, in_use: int | None
) -> None:
    monkeypatch.setattr(kserve, "connect", lambda: cluster)
    monkeypatch.setattr(kserve, "InferenceService", functools.partial(InferenceService, poll_s=0.01))
    monkeypatch.setenv("AQUATINT_RETRIES", "0")
    (tmp_path / "file").write_text("content")
    registry = Registry(FileObjects(tmp_path / "store"), "mini")
    registry.publish({"repository/file": tmp_path / "file"}, {})
    # Nobody answers at the last address: the picture cannot be drawn, so the old version returns.
    with pytest.raises(EngineUnavailable) if url else contextlib.nullcontext():
        steps.deploy_to_kserve(str(tmp_path / "store"), "mini", 1, "images", "aquatint", canary, 5.0, url, ["a fox"])
    pointer = registry.latest()
    assert (pointer and pointer.version) == in_use


def test_a_version_that_does_not_load_is_taken_back(cluster: Cluster, service: InferenceService) -> None:
    before = cluster.uri
    with pytest.raises(EngineUnavailable, match="no such key"):
        service.deploy(BAD, 10, 5.0)
    assert cluster.uri == before
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


def test_time_runs_out(cluster: Cluster, service: InferenceService) -> None:
    before = cluster.uri
    with pytest.raises(EngineUnavailable, match="not ready in 0 s"):
        service.deploy(NEW, None, 0.0)
    assert cluster.uri == before


def test_refusals(cluster: Cluster, service: InferenceService) -> None:
    with pytest.raises(ModelNotFound, match="no InferenceService other"):
        InferenceService(cluster, "images", "other").deploy(NEW, None, 1.0)
    cluster.refuse = 403
    with pytest.raises(EngineUnavailable, match="403 Forbidden"):
        service.deploy(NEW, None, 1.0)
