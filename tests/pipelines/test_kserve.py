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

from aquatint.client import Client
from aquatint.contract.errors import EngineUnavailable, ModelNotFound, ModelRejected
from aquatint.registry import REPOSITORY, Registry
from aquatint.storage import FileObjects
from aquatint.testing import fake_client
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
    """Merge as in RFC 7396."""
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


def served(uri: str, canary: int | None = None) -> dict[str, Any]:
    """Build the patch that has an address served, ``None`` taking away a canary's share."""
    return {"spec": {"predictor": {"canaryTrafficPercent": canary, "model": {"storageUri": uri}}}}


def test_deploy(cluster: Cluster, service: InferenceService) -> None:
    before = cluster.uri
    assert service.deploy(NEW, canary_percent=None, timeout_s=5.0) == before
    assert cluster.patches == [served(NEW)]
    service.roll_back(before)
    assert cluster.patches[1:] == [served(before)]


def test_a_canary_is_promoted_or_rolled_back(cluster: Cluster, service: InferenceService) -> None:
    before = service.deploy(NEW, canary_percent=10, timeout_s=5.0)
    assert cluster.patches == [served(NEW, 10)]
    service.promote()
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]
    service.roll_back(before)
    assert cluster.uri == before


def test_a_trial_gives_a_canary_everything(cluster: Cluster, service: InferenceService) -> None:
    seen: list[object] = []

    def trial() -> None:
        seen.append(cluster.service["spec"]["predictor"]["canaryTrafficPercent"])

    service.deploy(NEW, canary_percent=10, timeout_s=5.0, trial=trial)
    assert seen == [10]
    assert cluster.uri == NEW
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


def test_a_version_that_cannot_generate_is_taken_back(cluster: Cluster, service: InferenceService) -> None:
    def trial() -> None:
        raise ModelRejected("version 2 generates blank images")

    before = cluster.uri
    with pytest.raises(ModelRejected, match="blank"):
        service.deploy(NEW, canary_percent=10, timeout_s=5.0, trial=trial)
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
    # Nobody answers at the last address: no image can be generated, so the old version returns.
    with pytest.raises(EngineUnavailable) if url else contextlib.nullcontext():
        steps.deploy_to_kserve(
            str(tmp_path / "store"),
            "mini",
            1,
            namespace="images",
            service="aquatint",
            rollout=steps.Rollout(canary, 5.0, url, ["a fox"]),
        )
    pointer = registry.latest()
    assert (pointer and pointer.version) == in_use


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Registry:
    """Publish two versions of ``mini`` in a folder that stands for any bucket."""
    monkeypatch.setattr(kserve, "connect", lambda: cluster)
    monkeypatch.setattr(kserve, "InferenceService", functools.partial(InferenceService, poll_s=0.01))
    objects = FileObjects(tmp_path / "bucket")
    monkeypatch.setattr(steps, "open_objects", lambda _: objects)
    made = Registry(objects, "mini")
    for number in (1, 2):
        (tmp_path / "file").write_text(f"version {number}")
        made.publish({f"{REPOSITORY}/mini/config.pbtxt": tmp_path / "file"}, {})
    return made


@pytest.mark.parametrize("store", ["s3://models", "s3://models/", "s3://models/team/a", "pvc://weights/a/"])
def test_the_step_writes_where_the_version_is(cluster: Cluster, registry: Registry, tmp_path: Path, store: str) -> None:
    """KServe downloads what is below the address: it must be the model repository itself, of this very version."""
    steps.deploy_to_kserve(
        store, "mini", 2, namespace="images", service="aquatint", rollout=steps.Rollout(0, 5.0, "", [])
    )
    assert cluster.patches == [served(f"{store.rstrip('/')}/models/mini/2/repository")]
    below_the_store = cluster.uri.removeprefix(f"{store.rstrip('/')}/")
    assert (tmp_path / "bucket" / below_the_store / "mini" / "config.pbtxt").read_text() == "version 2"


@pytest.mark.parametrize("canary", [0, 25])
def test_the_step_generates_the_probes_at_the_address_given(
    cluster: Cluster, registry: Registry, monkeypatch: pytest.MonkeyPatch, canary: int
) -> None:
    """While the new version has its share of the traffic, and before it gets all."""
    calls: list[Any] = []

    def connect(**options: Any) -> Client:
        calls.append(options)
        return fake_client()

    def generate(_: Client, probes: list[str], version: int) -> None:
        calls.append((probes, version, cluster.service["spec"]["predictor"].get("canaryTrafficPercent")))

    monkeypatch.setattr(steps, "connect", connect)
    monkeypatch.setattr("aquatint.registry.try_prompts", generate)
    steps.deploy_to_kserve(
        "s3://m",
        "mini",
        2,
        namespace="images",
        service="aquatint",
        rollout=steps.Rollout(canary, 5.0, "images:9000", ["a fox"]),
    )
    where = {"url": "images:9000", "protocol": "grpc", "model": "mini"}
    assert calls == [where, (["a fox"], 2, canary or None)]
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]
    latest = registry.latest()
    assert latest is not None
    assert latest.version == 2


def test_a_version_that_does_not_load_is_taken_back(cluster: Cluster, service: InferenceService) -> None:
    before = cluster.uri
    with pytest.raises(EngineUnavailable, match="no such key"):
        service.deploy(BAD, canary_percent=10, timeout_s=5.0)
    assert cluster.patches == [served(BAD, 10), served(before)]


def test_time_runs_out(cluster: Cluster, service: InferenceService) -> None:
    before = cluster.uri
    with pytest.raises(EngineUnavailable, match="not ready in 0 s"):
        service.deploy(NEW, canary_percent=None, timeout_s=0.0)
    assert cluster.uri == before


def test_refusals(cluster: Cluster, service: InferenceService) -> None:
    with pytest.raises(ModelNotFound, match="no InferenceService other"):
        InferenceService(cluster, "images", "other").deploy(NEW, canary_percent=None, timeout_s=1.0)
    cluster.refuse = 403
    with pytest.raises(EngineUnavailable, match="403 Forbidden"):
        service.deploy(NEW, canary_percent=None, timeout_s=1.0)
