"""checkov over every overlay, with a skip list that names its reasons; it lives in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, OVERLAYS, Manifest, build

CHECKOV = Path(sys.prefix) / "checkov" / "bin" / "checkov"
CONFIG = DEPLOY / ".checkov.yaml"


def as_deployment(service: Manifest, part: str, manifests: tuple[Manifest, ...]) -> Manifest:
    """Do as KServe does with an InferenceService's predictor or transformer: checkov does not know KServe's kinds."""
    pod = dict(service["spec"][part])
    model = pod.pop("model", None)
    if model is not None:
        (runtime,) = [
            each
            for each in manifests
            if each["kind"] == "ServingRuntime" and each["metadata"]["name"] == model["runtime"]
        ]
        (container,) = runtime["spec"]["containers"]
        resources = {**container.get("resources", {}), **model.get("resources", {})}
        for kind in ("requests", "limits"):
            resources[kind] = {
                **container.get("resources", {}).get(kind, {}),
                **model.get("resources", {}).get(kind, {}),
            }
        pod["containers"] = [{**container, "resources": resources}]
        pod["volumes"] = [*runtime["spec"].get("volumes", []), *pod.get("volumes", [])]
    fields = ("containers", "initContainers", "volumes", "automountServiceAccountToken", "securityContext")
    labels = {"serving.kserve.io/inferenceservice": service["metadata"]["name"], "component": part}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{service['metadata']['name']}-{part}"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {name: pod[name] for name in fields if name in pod},
            },
        },
    }


def for_checkov(overlay: str) -> list[Manifest]:
    """List an overlay's manifests, with KServe's services as the Deployments that they become."""
    manifests = build(overlay)
    made = [
        as_deployment(each, part, manifests)
        for each in manifests
        if each["kind"] == "InferenceService"
        for part in ("predictor", "transformer")
        if part in each["spec"]
    ]
    return [*manifests, *made]


def run(folder: Path, *options: str) -> list[dict[str, Any]]:
    """List what fails among the manifests in ``folder``."""
    done = subprocess.run(
        [CHECKOV, "-d", folder, "--compact", "--quiet", "-o", "json", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report.get("summary", report)["resource_count"] > 0, done.stderr
    failed: list[dict[str, Any]] = report.get("results", {}).get("failed_checks", [])
    return failed


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CHECKOV.is_file():
        pytest.fail("checkov is not installed: make .venv/checkov/ready")
    folder = tmp_path_factory.mktemp("checkov")
    for overlay in OVERLAYS:
        (folder / f"{overlay}.yaml").write_text(yaml.safe_dump_all(for_checkov(overlay)))
    return folder


def test_overlays_pass(manifests: Path) -> None:
    failed = run(manifests, "--config-file", str(CONFIG))
    assert [(each["check_id"], each["check_name"], each["resource"], each["file_path"]) for each in failed] == []


def test_every_skipped_check_is_needed_and_has_a_reason(manifests: Path) -> None:
    failing = {each["check_id"] for each in run(manifests, "--framework", "kubernetes")}
    assert failing == set(yaml.safe_load(CONFIG.read_text())["skip-check"])
    for line in CONFIG.read_text().splitlines():
        assert "CKV" not in line or line.partition("#")[2].strip(), line


def test_a_careless_pod_is_found(tmp_path: Path) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "careless"},
        "spec": {"containers": [{"name": "a", "image": "a", "securityContext": {"privileged": True}}]},
    }
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    assert "CKV_K8S_16" in {each["check_id"] for each in run(tmp_path, "--config-file", str(CONFIG))}
