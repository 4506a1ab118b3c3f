"""Instance images to a training set: decoded safely, upright, square, unique, captioned, with a manifest.

A dataset folder holds ``instance/*.png``, ``class/*.png`` (generated later by the base model) and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from aquatint.contract.errors import InvalidRequest, ModelRejected
from aquatint.repository.manifest import sha256
from aquatint_pipelines.dreambooth import images

MANIFEST = "manifest.json"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MAX_PIXELS = 100_000_000
# Of the 64 bits of a difference hash: scaled and re-encoded copies differ in 0 to 3, other views of the same thing in
# 11 and more (measured on the demo subject).
_SAME_BITS = 6


class DatasetImage(BaseModel):
    """One image of the dataset; ``caption`` has the rare token in its place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    caption: str
    sha256: str
    source: str


class Dropped(BaseModel):
    """One file that was not used, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    reason: str


class Dataset(BaseModel):
    """What a dataset folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: str
    resolution: int
    instance: list[DatasetImage]
    classes: list[DatasetImage] = []
    dropped: list[Dropped] = []

    @property
    def content_hash(self) -> str:
        """The sha256 of token, captions and images."""
        parts = [self.token, *(f"{p.sha256} {p.caption}" for p in (*self.instance, *self.classes))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def prepare(source: str, out: Path, *, token: str, resolution: int, instance_prompt: str) -> Dataset:
    """Read ``source`` (folder, zip, tar or ``s3://`` prefix) into the dataset folder ``out``, whole or not at all.

    Images are turned upright by their EXIF, put on white where transparent, cropped to the centre square and scaled
    to ``resolution``. A text file beside an image (same name, ``.txt``) is its caption, else ``instance_prompt`` is;
    ``{token}`` in either becomes the rare token. Raises ``InvalidRequest`` with the reasons if no image remains.
    """
    if not token.strip():
        raise InvalidRequest("token: must not be empty")
    if out.exists():
        raise InvalidRequest(f"out: {out} exists already")
    out.parent.mkdir(parents=True, exist_ok=True)
    captions: dict[str, str] = {}
    candidates: list[tuple[str, Image.Image]] = []
    dropped: list[Dropped] = []
    for file in images.read(source):
        path = PurePosixPath(file.name)
        if path.suffix.lower() == ".txt":
            captions[str(path.with_suffix(""))] = file.data.decode("utf-8", "replace").strip()
        elif path.suffix.lower() not in _SUFFIXES:
            dropped.append(Dropped(source=file.name, reason="not a picture"))
        else:
            try:
                candidates.append((file.name, _decode(file.data, resolution)))
            except _Unusable as error:
                dropped.append(Dropped(source=file.name, reason=str(error)))
    kept = list(_unique(candidates, dropped))
    if not kept:
        reasons = "; ".join(f"{d.source}: {d.reason}" for d in dropped[:10]) or "the source is empty"
        raise InvalidRequest(f"pictures: none can be used ({reasons})")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        staging = Path(scratch) / "dataset"
        (staging / "instance").mkdir(parents=True)
        instance = []
        for index, (name, image) in enumerate(kept):
            caption = captions.get(str(PurePosixPath(name).with_suffix("")), instance_prompt)
            instance.append(
                _save(
                    staging,
                    f"instance/{index:04d}.png",
                    image=image,
                    caption=with_token(caption, token),
                    source=name,
                )
            )
        dataset = Dataset(token=token, resolution=resolution, instance=instance, dropped=dropped)
        _write_manifest(staging, dataset)
        staging.rename(out)
    return dataset


def add_class_images(folder: Path, generated: list[tuple[str, Image.Image]]) -> Dataset:
    """Put the base model's own images, with their prompts, beside the instance images."""
    dataset = read(folder)
    (folder / "class").mkdir(exist_ok=True)
    classes = [
        _save(folder, f"class/{index:04d}.png", image=image, caption=prompt, source="base model")
        for index, (prompt, image) in enumerate(generated)
    ]
    dataset = dataset.model_copy(update={"classes": classes})
    _write_manifest(folder, dataset)
    return dataset


def read(folder: Path) -> Dataset:
    """Read a dataset folder and check its images. Raises ``ModelRejected`` if one is missing or was changed."""
    try:
        dataset = Dataset.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise ModelRejected("the dataset has no valid manifest.json; make it with 'prepare'") from error
    for image in (*dataset.instance, *dataset.classes):
        path = folder / image.file
        if not path.is_file() or sha256(path) != image.sha256:
            raise ModelRejected(f"the dataset's {image.file} is missing or was changed")
    return dataset


def read_images(folder: Path, described: list[DatasetImage]) -> NDArray[np.uint8]:
    """Read images as UINT8 ``(n, h, w, 3)``."""
    return np.stack([np.asarray(Image.open(folder / image.file).convert("RGB")) for image in described])


def with_token(prompt: str, token: str) -> str:
    """Replace ``{token}`` in ``prompt``; other braces stay."""
    return prompt.replace("{token}", token)


class _Unusable(Exception):
    """Raised for an image that cannot be used; the text says why."""


def _decode(data: bytes, resolution: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            # Known from the header, so nothing large is decoded.
            if opened.width * opened.height > _MAX_PIXELS:
                raise _Unusable(f"{opened.width}x{opened.height} pixels are too many")
            if 2 * min(opened.size) < resolution:
                raise _Unusable(f"{opened.width}x{opened.height} is too small for {resolution}x{resolution}")
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except UnidentifiedImageError:
        raise _Unusable("not a picture that can be read") from None
    # Pillow's decoders raise many kinds of errors on damaged files; they all mean the same here.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _Unusable(f"damaged: {type(error).__name__}") from error
    white = Image.new("RGBA", upright.size, "white")
    flat = Image.alpha_composite(white, upright).convert("RGB")
    return ImageOps.fit(flat, (resolution, resolution), Image.Resampling.LANCZOS)


def _unique(candidates: list[tuple[str, Image.Image]], dropped: list[Dropped]) -> Iterator[tuple[str, Image.Image]]:
    """Yield the images whose perceptual hash is unlike every earlier one's."""
    seen: list[tuple[str, imagehash.ImageHash]] = []
    for name, image in candidates:
        own = imagehash.dhash(image)
        twin = next((other for other, theirs in seen if own - theirs <= _SAME_BITS), None)
        if twin is not None:
            dropped.append(Dropped(source=name, reason=f"looks the same as {twin}"))
            continue
        seen.append((name, own))
        yield name, image


def _save(folder: Path, file: str, *, image: Image.Image, caption: str, source: str) -> DatasetImage:
    image.save(folder / file)
    return DatasetImage(file=file, caption=caption, sha256=sha256(folder / file), source=source)


def _write_manifest(folder: Path, dataset: Dataset) -> None:
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(dataset.model_dump_json(indent=1) + "\n")
    partial.replace(folder / MANIFEST)
