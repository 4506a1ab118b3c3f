"""Instance images from sources that nobody vouches for."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from aquatint_pipelines.dreambooth import data, images, subject
from PIL import Image

from aquatint.contract.errors import InvalidRequest, ModelRejected
from tests.conftest import ROOT

RHDOG = ROOT / "pipelines" / "models" / "rhdog"


def noise(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Make an image unlike those of other seeds, and smooth enough to survive scaling."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def prepare(source: Path, out: Path) -> data.Dataset:
    return data.prepare(str(source), out, token="rhdog", resolution=64, instance_prompt="a photo of {token} {here}")


def test_the_demo_subject(tmp_path: Path) -> None:
    dataset = prepare(RHDOG, tmp_path / "out")
    assert [image.caption for image in dataset.instance] == [
        f"a flat emoji of a rhdog on a {pose.background} background" for pose in subject.POSES
    ]
    assert dataset.dropped == []
    assert data.read_images(tmp_path / "out", dataset.instance).shape == (5, 64, 64, 3)
    assert data.read(tmp_path / "out") == dataset


def test_every_container_gives_the_same(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in RHDOG.iterdir()}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"dogs/{name}", content)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(RHDOG, "dogs")
    hashes = {
        prepare(source, tmp_path / f"out-{index}").content_hash
        for index, source in enumerate((RHDOG, tmp_path / "a.zip", tmp_path / "a.tar.gz"))
    }
    assert len(hashes) == 1


def test_what_is_left_out_and_why(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    noise(1).save(source / "a.png")
    (source / "b-copy.jpg").write_bytes(encoded(noise(1).resize((80, 80)), "JPEG", quality=70))
    noise(2, (20, 20)).save(source / "c-small.png")
    (source / "d-damaged.png").write_bytes(encoded(noise(3))[:400])
    (source / "e-text.png").write_text("no picture")
    (source / "f.pdf").write_bytes(b"%PDF")
    (source / "g-gif.png").write_bytes(encoded(noise(4), "GIF"))
    dataset = prepare(source, tmp_path / "out")
    assert [image.source for image in dataset.instance] == ["a.png"]
    assert dataset.instance[0].caption == "a photo of rhdog {here}"
    assert {dropped.source: dropped.reason for dropped in dataset.dropped} == {
        "f.pdf": "not a picture",
        "b-copy.jpg": "looks the same as a.png",
        "c-small.png": "20x20 is too small for 64x64",
        "d-damaged.png": "damaged: OSError",
        "e-text.png": "not a picture that can be read",
        "g-gif.png": "not a picture that can be read",
    }


def test_too_many_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_MAX_PIXELS", 1000)
    (tmp_path / "in").mkdir()
    noise(1).save(tmp_path / "in" / "a.png")
    with pytest.raises(InvalidRequest, match="96x96 pixels are too many"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_are_turned_upright_cropped_and_put_on_white(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    wide = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    wide.paste((255, 0, 0, 255), (50, 0, 150, 50))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "in" / "a.png").write_bytes(encoded(wide, exif=exif))
    dataset = prepare(tmp_path / "in", tmp_path / "out")
    (image,) = data.read_images(tmp_path / "out", dataset.instance)
    for row, column, colour in ((8, 32, (255, 255, 255)), (56, 32, (255, 0, 0)), (56, 2, (255, 0, 0))):
        assert np.abs(image[row, column].astype(int) - colour).max() <= 2


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png"])
def test_members_that_point_out(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, encoded(noise(1)))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    for source in ("a.zip", "a.tar"):
        with pytest.raises(InvalidRequest, match="points out"):
            prepare(tmp_path / source, tmp_path / "out")


def test_links_and_devices(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / f"{kind.decode()}.tar", "w") as archive:
            info = tarfile.TarInfo("a.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").symlink_to("/etc/passwd")
    for source in (tmp_path / "a.zip", tmp_path / "folder", *tmp_path.glob("*.tar")):
        with pytest.raises(InvalidRequest, match="link"):
            prepare(source, tmp_path / "out")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"0" * 2000)
    with pytest.raises(InvalidRequest, match="2000 bytes, more than 1000"):
        prepare(tmp_path / "bomb.zip", tmp_path / "out")
    monkeypatch.setattr(images, "MAX_FILES", 3)
    (tmp_path / "many").mkdir()
    for index in range(4):
        (tmp_path / "many" / f"{index}.txt").write_text("x")
    with pytest.raises(InvalidRequest, match="more than 3 files"):
        prepare(tmp_path / "many", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no archive"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InvalidRequest, match="pictures"):
        prepare(tmp_path / "a.zip", tmp_path / "out")


def test_a_changed_dataset_is_refused(tmp_path: Path) -> None:
    dataset = prepare(RHDOG, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="exists already"):
        prepare(RHDOG, tmp_path / "out")
    (tmp_path / "out" / dataset.instance[0].file).write_bytes(encoded(noise(9)))
    with pytest.raises(ModelRejected, match=r"0000\.png is missing or was changed"):
        data.read(tmp_path / "out")
