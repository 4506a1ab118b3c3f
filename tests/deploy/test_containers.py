"""Containerfiles: clean by hadolint, nobody is root, and what they copy and start exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.manifests import BIN, DEPLOY
from tests.deploy.test_overlays import PYPROJECT, SETTINGS, variables

FILES = sorted((DEPLOY / "containers").glob("*.Containerfile"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_containerfile(file: Path) -> None:
    done = subprocess.run(
        [BIN / "hadolint", "-c", DEPLOY / "containers" / ".hadolint.yaml", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    assert re.findall(r"^USER (.*)", text, re.MULTILINE)[-1] == "1001:0"
    last_stage = text.rpartition("\nFROM ")[2]
    assert "pip install" not in last_stage
    assert "gcc" not in text
    # An image gets what was tested: exact versions from the lock; only torch's build is chosen.
    assert re.search(r'uv pip install .*--constraints deploy/locks/main\.txt .*"\.\[', text)
    for installed in re.findall(r"pip install --no-cache-dir (.*?)(?: \\)?$", text, re.MULTILINE):
        assert re.search(
            r'--require-hashes -r deploy/locks/uv\.txt|--index-url "\$\{TORCH_INDEX\}" "\$\{TORCH\}"', installed
        )
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    for extras in re.findall(r'"\.\[(.*)\]"', text):
        assert set(extras.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
    # Every package that pyproject.toml names is there to be built.
    for folder in PYPROJECT["tool"]["setuptools"]["package-dir"].values():
        assert re.search(rf"^COPY (--from=\S+ \S+ )?({folder}|{Path(folder).parent}) ", text, re.MULTILINE), folder
    command = re.findall(r'^CMD \["([\w-]+)"', text, re.MULTILINE)[-1]
    assert command in {*PYPROJECT["project"]["scripts"], "tritonserver"}


def test_every_image_of_the_manifests_can_be_built() -> None:
    images = yaml.safe_load((DEPLOY / "components" / "images" / "kustomization.yaml").read_text())["images"]
    ours = {each["newName"].rpartition("/")[2] for each in images if "/aquatint/" in each["newName"]}
    assert ours == {file.name.removesuffix(".Containerfile") for file in FILES}


def test_compose() -> None:
    services = yaml.safe_load((DEPLOY / "containers" / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        known = {variable for kind in SETTINGS[name] for variable in variables(kind)}
        assert set(service["environment"]) <= known
        assert service["read_only"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
