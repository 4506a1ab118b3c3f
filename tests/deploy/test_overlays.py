"""Every overlay builds, fits the published schemas, keeps to the security rules, and names only what the code has."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from aquatint_backends.aquatint_runtime.settings import RuntimeSettings
from aquatint_backends.diffusers.placement import PlacementSettings
from aquatint_chat.settings import ChatSettings
from aquatint_mcp.settings import McpSettings
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from aquatint.settings import ApiSettings, ClientSettings, StorageSettings, TextToImageSettings
from tests.conftest import ROOT
from tests.deploy.manifests import DEPLOY, OVERLAYS, Manifest, build, check, containers, everything, kustomize

# What each of our images reads; those of others begin with their own names.
SETTINGS: dict[str, list[type[BaseSettings]]] = {
    "triton": [TextToImageSettings, ClientSettings],
    "diffusers": [RuntimeSettings, PlacementSettings],
    "mcp": [ApiSettings, StorageSettings, ClientSettings, McpSettings],
    "chat": [ApiSettings, ChatSettings],
    "trainer": [],
}
OTHERS = re.compile(r"HOME|NAMESPACE|HF_\w+|AWS_\w+|OTEL_\w+|VLLM_\w+")
# The exporting container's own, used in its command.
ARGUMENTS = {"trainer": {"MODEL", "CHECKPOINT"}}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def variables(kind: type[BaseSettings]) -> Iterator[str]:
    """List the environment variables that a settings class reads."""
    prefix = str(kind.model_config.get("env_prefix") or "")
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            yield from map(str, alias.choices)
        else:
            yield str(alias) if alias else f"{prefix}{name}".upper()


def our_image(container: Manifest) -> str | None:
    """Return the name under ``deploy/containers``, for images of ours."""
    name = container["image"].rpartition("/")[2].partition(":")[0]
    return name if "/aquatint/" in container["image"] else None


def config_of(overlay: str, container: Manifest) -> dict[str, str]:
    """Collect what a container gets from the overlay's ConfigMaps."""
    names = {source["configMapRef"]["name"] for source in container.get("envFrom", []) if "configMapRef" in source}
    maps = [each for each in build(overlay) if each["kind"] == "ConfigMap" and each["metadata"]["name"] in names]
    return {key: value for each in maps for key, value in each["data"].items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas(overlay: str) -> None:
    for manifest in build(overlay):
        check(manifest)


COMPONENTS = sorted(path.name for path in (DEPLOY / "components").iterdir())


@pytest.mark.parametrize("component", COMPONENTS)
def test_components(component: str, tmp_path: Path) -> None:
    """Every component that no overlay uses, added to the overlay that has everything."""
    relative = os.path.relpath(DEPLOY, tmp_path)
    wanted = {"resources": [f"{relative}/overlays/all-in-one"], "components": [f"{relative}/components/{component}"]}
    files = [yaml.safe_load(path.read_text()) for path in DEPLOY.glob("overlays/*/kustomization.yaml")]
    if any(f"../../components/{component}" in file.get("components", []) for file in files):
        return
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    built = kustomize(tmp_path)
    assert built != build("all-in-one")
    for manifest in built:
        check(manifest)


def test_the_check_finds_mistakes() -> None:
    (service,) = [each for each in build("triton-s3") if each["kind"] == "InferenceService"]
    wrong = json.loads(json.dumps(service))
    wrong["spec"]["predictor"]["model"]["storageURI"] = "s3://x"
    with pytest.raises(jsonschema.ValidationError, match="storageURI"):
        check(wrong)
    (service,) = [each for each in build("mcp-server") if each["kind"] == "Service"]
    with pytest.raises(kubernetes_validate.ValidationError, match="portz"):
        check({**service, "spec": {**service["spec"], "portz": []}})


def test_three_values_are_enough() -> None:
    values = yaml.safe_load((DEPLOY / "overlays" / "triton-s3" / "values.yaml").read_text())["data"]
    (service,) = [each for each in build("triton-s3") if each["kind"] == "InferenceService"]
    model = service["spec"]["predictor"]["model"]
    assert model["storageUri"] == values["STORAGE_URI"]
    assert {"name": "AQUATINT_MODEL", "value": values["MODEL"]} in model["env"]
    assert model["resources"]["limits"]["nvidia.com/gpu"] == values["GPUS"]
    (settings,) = [
        each for each in build("all-in-one") if each["metadata"]["name"] == "aquatint-mcp" and "data" in each
    ]
    assert settings["data"]["AQUATINT_MODEL"] == values["MODEL"]


def test_no_secret_is_part_of_an_overlay() -> None:
    assert [manifest for _, manifest in everything() if manifest["kind"] == "Secret"] == []
    for template in DEPLOY.rglob("*.template.yaml"):
        for value in yaml.safe_load(template.read_text())["stringData"].values():
            assert "CHANGE-ME" in value or re.fullmatch(r"https?://[\w.:-]+", value), template


def test_every_container_is_restricted() -> None:
    seen = 0
    for overlay, manifest in everything():
        for pod, container in containers(manifest):
            seen += 1
            effective = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            assert effective == RESTRICTED, f"{overlay}: {container['name']}"
            assert "resources" in container or manifest["metadata"]["name"] == "vllm", container["name"]
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in pod.get("volumes", [])}
    assert seen > 15


def test_environment_variables_exist_in_the_code() -> None:
    for overlay, manifest in everything():
        for _, container in containers(manifest):
            image = our_image(container)
            if image is None:
                continue
            known = {name for kind in SETTINGS[image] for name in variables(kind)} | ARGUMENTS.get(image, set())
            used = {each["name"] for each in container.get("env", [])} | set(config_of(overlay, container))
            unknown = {name for name in used - known if not OTHERS.fullmatch(name)}
            assert not unknown, f"{overlay}: {container['name']}"


def test_models_get_variables_of_their_runtime() -> None:
    images = {"aquatint-triton": "triton", "aquatint-diffusers": "diffusers"}
    for _, manifest in everything():
        if manifest["kind"] == "InferenceService" and manifest["metadata"]["name"] == "aquatint":
            model = manifest["spec"]["predictor"]["model"]
            known = {name for kind in SETTINGS[images[model["runtime"]]] for name in variables(kind)}
            assert {each["name"] for each in model["env"]} <= known


def test_secret_templates_name_known_variables() -> None:
    for service, kinds in (("mcp-server", SETTINGS["mcp"]), ("chatbot", SETTINGS["chat"])):
        template = yaml.safe_load((DEPLOY / "base" / service / "secret.template.yaml").read_text())
        known = {name for kind in kinds for name in variables(kind)}
        assert {name for name in template["stringData"] if not OTHERS.fullmatch(name)} <= known


def test_secrets_that_are_used_have_a_template() -> None:
    templates = {yaml.safe_load(path.read_text())["metadata"]["name"] for path in DEPLOY.rglob("*.template.yaml")}
    for overlay, manifest in everything():
        for pod, container in containers(manifest):
            required = [s["secretRef"]["name"] for s in container.get("envFrom", []) if "secretRef" in s]
            required += [v["secret"]["secretName"] for v in pod.get("volumes", []) if "secret" in v]
            assert set(required) <= templates, overlay


def test_commands_exist() -> None:
    scripts = {*PYPROJECT["project"]["scripts"], "tritonserver", "sh"}
    for _, manifest in everything():
        for _, container in containers(manifest):
            if our_image(container) is not None:
                assert container["command"][0] in scripts
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    command = container.get(probe, {}).get("exec", {}).get("command", ["aquatint"])
                    assert command[0] in scripts


def test_ports_fit_together() -> None:
    for overlay, manifest in everything():
        for _, container in containers(manifest):
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                assert port is None or port in ports or port in ports.values(), f"{overlay}: {container['name']}"
            config = config_of(overlay, container)
            assert "PORT" not in config or int(config["PORT"]) in ports.values()
        annotations = manifest.get("spec", {}).get("annotations", {}) if manifest["kind"] == "ServingRuntime" else {}
        if annotations:
            (container,) = manifest["spec"]["containers"]
            exposed = {str(port["containerPort"]) for port in container["ports"]}
            assert annotations["prometheus.kserve.io/port"] in exposed


def selected(manifests: tuple[Manifest, ...], selector: dict[str, str]) -> Manifest:
    """Find what starts the pods that a Service selects: a Deployment, or an InferenceService's runtime."""
    if name := selector.get("serving.kserve.io/inferenceservice"):
        (service,) = [e for e in manifests if e["kind"] == "InferenceService" and e["metadata"]["name"] == name]
        if selector.get("component") == "transformer":
            return service
        runtime = service["spec"]["predictor"]["model"]["runtime"]
        return next(e for e in manifests if e["kind"] == "ServingRuntime" and e["metadata"]["name"] == runtime)
    pods = [each for each in manifests if each["kind"] == "Deployment"]
    (found,) = [pod for pod in pods if selector.items() <= pod["spec"]["template"]["metadata"]["labels"].items()]
    return found


def listens_on(owner: Manifest) -> set[Any]:
    """Map the names of a pod's ports to numbers: those it declares, and those given in its command."""
    found: set[Any] = set()
    for _, container in containers(owner):
        for port in container.get("ports", []):
            found |= {port["name"], port["containerPort"]}
        found |= {int(number) for number in re.findall(r"port=(\d+)", " ".join(container.get("args", [])))}
    return found


def test_services_and_routes_lead_somewhere() -> None:
    for overlay in OVERLAYS:
        manifests = build(overlay)
        services = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "Service"}
        for service in services.values():
            listening = listens_on(selected(manifests, service["spec"]["selector"]))
            assert {port.get("targetPort", port["port"]) for port in service["spec"]["ports"]} <= listening
        for route in (each for each in manifests if each["kind"] == "Route"):
            target = services[route["spec"]["to"]["name"]]
            assert route["spec"]["port"]["targetPort"] in {port["name"] for port in target["spec"]["ports"]}


def test_addresses_between_the_parts() -> None:
    """The settings of one part name the services of the others, in the overlay that has them all."""
    manifests = build("all-in-one")
    ports = {
        (each["metadata"]["name"], port["port"])
        for each in manifests
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    data = {each["metadata"]["name"]: each["data"] for each in manifests if each["kind"] == "ConfigMap"}
    addresses = (
        data["aquatint-mcp"]["AQUATINT_URL"],
        data["aquatint-chat"]["AQUATINT_CHAT_MCP_URL"],
        data["aquatint-chat"]["AQUATINT_CHAT_LLM_URL"],
    )
    for address in addresses:
        found = re.search(r"([a-z-]+):(\d+)", address.removeprefix("http://"))
        assert found is not None
        assert (found[1], int(found[2])) in ports


def test_pods_outlast_their_longest_request() -> None:
    for overlay, manifest in everything():
        if manifest["kind"] == "InferenceService" and manifest["metadata"]["name"] == "aquatint":
            predictor = manifest["spec"]["predictor"]
            runtime = next(
                each
                for each in build(overlay)
                if each["kind"] == "ServingRuntime" and each["metadata"]["name"] == predictor["model"]["runtime"]
            )
            (container,) = runtime["spec"]["containers"]
            env = {each["name"]: each.get("value") for each in container["env"]}
            stop = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            longest = stop + float(env["AQUATINT_REQUEST_TIMEOUT_S"])
            assert predictor["terminationGracePeriodSeconds"] > longest
            for argument in container["args"]:
                if argument.startswith("--exit-timeout-secs="):
                    assert longest - stop < int(argument.partition("=")[2]) < predictor["terminationGracePeriodSeconds"]


def test_policies_open_the_ports_that_are_used() -> None:
    for overlay in OVERLAYS:
        for policy in (each for each in build(overlay) if each["kind"] == "NetworkPolicy"):
            opened: set[Any] = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
            owner = selected(build(overlay), policy["spec"]["podSelector"]["matchLabels"])
            exposed = {port["containerPort"] for _, c in containers(owner) for port in c.get("ports", [])}
            assert exposed <= opened
