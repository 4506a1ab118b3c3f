import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from aquatint_pipelines import components, local, pipelines
from kfp import compiler

from aquatint.contract.errors import InvalidRequest
from tests.deploy.manifests import build


def compiled(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the compiled pipeline's specification, and the part for Kubernetes."""
    compiler.Compiler().compile(pipelines.ALL[name], str(folder / "pipeline.yaml"))
    parts = list(yaml.safe_load_all((folder / "pipeline.yaml").read_text()))
    return parts[0], parts[1] if len(parts) > 1 else {}


@pytest.mark.parametrize("name", pipelines.ALL)
def test_pipelines_compile_and_install_nothing(name: str, tmp_path: Path) -> None:
    pipeline, _ = compiled(name, tmp_path)
    assert pipeline["pipelineInfo"]["name"] == name
    executors = pipeline["deploymentSpec"]["executors"]
    assert executors
    assert all("pip install" not in str(executor) for executor in executors.values())
    for parameter in pipeline["root"].get("inputDefinitions", {}).get("parameters", {}).values():
        assert parameter.get("description"), parameter


def test_steps_get_what_the_overlay_brings(tmp_path: Path) -> None:
    pipeline, platform = compiled("dreambooth-to-production", tmp_path)
    manifests = build("pipelines")
    claims = {each["metadata"]["name"] for each in manifests if each["kind"] == "PersistentVolumeClaim"}
    (policy,) = [
        each
        for each in build("triton-s3")
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "aquatint-triton"
    ]
    admitted = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(steps) == 9
    for step in steps.values():
        assert {mount["pvcNameParameter"]["runtimeValue"]["constant"] for mount in step["pvcMount"]} <= claims
        needed = {secret["secretName"]: not secret.get("optional", False) for secret in step["secretAsEnv"]}
        assert needed == {"aquatint-pipelines": True, "huggingface": False}
        # Triton's NetworkPolicy lets in only our pods.
        assert step["podMetadata"]["labels"] == admitted
    trainer = pipeline["deploymentSpec"]["executors"]["exec-dreambooth"]["container"]
    assert trainer["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"


def test_components_hold_no_logic() -> None:
    """A body imports, calls plain functions and reports: nothing that decides or repeats."""
    for name, component in inspect.getmembers(components):
        function = getattr(component, "python_func", None)
        if function is not None:
            source = inspect.getsource(function)
            assert " while " not in source, name
            assert "try:" not in source, name
            assert len(source.splitlines()) < 45, name


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="dreambooth-to-production"):
        local.run("nothing", {}, tmp_path)
    with pytest.raises(InvalidRequest, match="colour"):
        local.run("prompt-list", {"colour": "red"}, tmp_path)
