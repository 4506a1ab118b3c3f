from pathlib import Path

import pytest

from aquatint.contract.errors import ModelRejected
from aquatint.repository import manifest


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "mini" / "1").mkdir(parents=True)
    (tmp_path / "mini" / "config.pbtxt").write_text('name: "mini"')
    (tmp_path / "mini" / "1" / "model.onnx").write_bytes(b"weights")
    described = manifest.Manifest(
        model="mini",
        engine="onnx",
        source="s",
        licence="apache-2.0",
        target="embedded",
        dtype="fp32",
        components={},
        parity={},
        tools={},
        files=manifest.digest_tree(tmp_path),
    )
    (tmp_path / manifest.FILE_NAME).write_text(described.model_dump_json())
    return tmp_path


def test_untouched(repository: Path) -> None:
    assert set(manifest.verify(repository).files) == {"mini/config.pbtxt", "mini/1/model.onnx"}


def test_changed_file(repository: Path) -> None:
    (repository / "mini" / "1" / "model.onnx").write_bytes(b"Weights")
    with pytest.raises(ModelRejected, match=r"mini/1/model.onnx was changed"):
        manifest.verify(repository)


def test_missing_file(repository: Path) -> None:
    (repository / "mini" / "config.pbtxt").unlink()
    with pytest.raises(ModelRejected, match=r"lacks mini/config.pbtxt"):
        manifest.verify(repository)


@pytest.mark.parametrize("text", ["", "{}", '{"model": 1}', "[["])
def test_damaged_manifest(repository: Path, text: str) -> None:
    (repository / manifest.FILE_NAME).write_text(text)
    with pytest.raises(ModelRejected, match="not valid"):
        manifest.read(repository)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="aquatint export"):
        manifest.read(tmp_path)
