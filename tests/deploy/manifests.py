"""The overlays as kubectl builds them, and the published schemas of every kind they use."""

from __future__ import annotations

import functools
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent.name for path in (DEPLOY / "overlays").glob("*/kustomization.yaml"))
BIN = Path(sys.executable).parent
Manifest = dict[str, Any]
KUBERNETES = "1.33"
CORE_GROUPS = {"", "apps", "policy", "networking.k8s.io", "rbac.authorization.k8s.io"}


@functools.cache
def build(overlay: str) -> tuple[Manifest, ...]:
    """Build the manifests of an overlay."""
    return kustomize(DEPLOY / "overlays" / overlay)


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    """Build a folder with a ``kustomization.yaml`` as kubectl does."""
    command: list[str | Path] = [BIN / "kubectl", "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def everything() -> Iterator[tuple[str, Manifest]]:
    """List every manifest of every overlay."""
    for overlay in OVERLAYS:
        for manifest in build(overlay):
            yield overlay, manifest


def pod_specs(manifest: Manifest) -> Iterator[Manifest]:
    """Yield the pod templates inside a manifest: of a Deployment, a ServingRuntime or an InferenceService's parts."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Deployment":
        yield spec["template"]["spec"]
    elif manifest["kind"] == "ServingRuntime":
        yield spec
    elif manifest["kind"] == "InferenceService":
        yield spec["predictor"]
        if "transformer" in spec:
            yield spec["transformer"]


def containers(manifest: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield the containers that a manifest starts, each with its pod."""
    for pod in pod_specs(manifest):
        for container in [*pod.get("containers", []), *pod.get("initContainers", [])]:
            yield pod, container


@functools.cache
def _published() -> tuple[dict[str, Any], dict[str, Any]]:
    folder = resources.files("class_generator") / "schema"
    kinds = json.loads(gzip.decompress((folder / "__resources-mappings.json.gz").read_bytes()))
    definitions = json.loads((folder / "_definitions.json").read_text())["definitions"]
    return kinds, definitions


def check(manifest: Manifest) -> None:
    """Raise a ``ValidationError`` of kubernetes-validate or jsonschema if a manifest does not fit its schema."""
    group = manifest["apiVersion"].rpartition("/")[0]
    if group in CORE_GROUPS:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    schema = schema_of(manifest)
    assert schema is not None, f"no published schema of {manifest['apiVersion']} {manifest['kind']}"
    jsonschema.Draft202012Validator(schema).validate(manifest)


def schema_of(manifest: Manifest) -> dict[str, Any] | None:
    """Return the published schema of a manifest's kind and version, with unknown fields refused."""
    kinds, definitions = _published()
    group, _, version = manifest["apiVersion"].rpartition("/")
    for schema in kinds.get(manifest["kind"].lower(), []):
        names = schema["x-kubernetes-group-version-kind"]
        if any(name["group"] == group and name["version"] == version for name in names):
            closed = {name: _closed(each) for name, each in definitions.items()}
            # Schemas refer to the same definitions by two paths.
            return {**_closed(schema), "definitions": closed, "components": {"schemas": closed}}
    return None


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
