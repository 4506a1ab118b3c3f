"""The emoji dataset: artwork of both styles, names, aliases and the held-out list in one zip file.

The zip holds ``<style>/<subject>.png`` (RGBA, ``RASTER_SIZE`` square, subject centred with a margin) and
``dataset.json``. Reading it needs Pillow and numpy only, so training runs on a machine with nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from aquatint_pipelines.mini import sources
from aquatint_pipelines.mini.captions import BACKGROUNDS, STYLES, Combination, default_caption
from aquatint_pipelines.mini.recipe import SubjectsRecipe

RASTER_SIZE = 128
_MARGIN = 0.08
_GROUPS = (
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Smileys & Emotion",
)
_UNWANTED = re.compile(r"o.clock|-thirty|arrow|\bbutton\b|\bsign\b|\bletter\b|input|flag|japanese")
_HELD_OUT_ONE_IN = 14

# Groups whose keywords name the thing itself; elsewhere they name moods and associations.
_KEYWORD_GROUPS = ("Animals & Nature", "Food & Drink")
_UNWANTED_KEYWORDS = {"batman", "butt", "jaws", "pests", "sven", "lazy", "tweet", "weed", "films", "manga", "assets"}

# What people type for a subject whose Unicode name nobody uses.
COMMON_NAMES: dict[str, list[str]] = {
    "red apple": ["apple"],
    "automobile": ["car"],
    "soccer ball": ["football", "soccer"],
    "dog": ["puppy"],
    "cat": ["kitten"],
    "hot beverage": ["coffee", "cup of coffee", "tea"],
    "beer mug": ["beer"],
    "hamburger": ["burger"],
    "tangerine": ["orange fruit", "mandarin"],
    "spouting whale": ["whale spouting"],
    "sun": ["sunshine"],
    "red heart": ["heart"],
    "house": ["home"],
    "evergreen tree": ["pine tree", "fir tree"],
    "deciduous tree": ["tree"],
    "lady beetle": ["ladybug", "ladybird"],
    "honeybee": ["bee"],
    "birthday cake": ["cake"],
    "soft ice cream": ["ice cream"],
    "front-facing baby chick": ["chick"],
    "spiral shell": ["seashell"],
    "ear of corn": ["corn", "maize"],
    "hot pepper": ["chili"],
    "glass of milk": ["milk"],
    "wine glass": ["wine"],
    "top hat": ["hat"],
    "t-rex": ["tyrannosaurus", "dinosaur"],
}


@dataclass
class EmojiDataset:
    """The images and words in memory.

    ``images[style]`` is UINT8 ``(subjects, 128, 128, 4)``, straight alpha, in the order of ``subjects``.
    """

    subjects: list[str]
    groups: list[str]
    aliases: dict[str, list[str]]
    images: dict[str, NDArray[np.uint8]]
    sources: list[dict[str, str]] = field(default_factory=list)

    @property
    def content_hash(self) -> str:
        """The sha256 of names and pixels: the same for every build from the same sources and rasteriser."""
        digest = hashlib.sha256(json.dumps([self.subjects, self.groups, self.aliases]).encode())
        for style in STYLES:
            digest.update(self.images[style].tobytes())
        return digest.hexdigest()

    def select(self, wanted: SubjectsRecipe) -> EmojiDataset:
        """Select what a recipe trains on: whole groups, plus and minus single subjects.

        Raises ``ValueError`` for a named subject that does not exist.
        """
        if unknown := sorted({*wanted.extra, *wanted.exclude} - set(self.subjects)):
            raise ValueError(f"unknown subjects in the recipe: {', '.join(unknown)}")
        named = zip(self.subjects, self.groups)
        chosen = {s for s, g in named if g in wanted.groups or s in wanted.extra} - set(wanted.exclude)
        keep = [i for i, subject in enumerate(self.subjects) if subject in chosen]
        return EmojiDataset(
            [self.subjects[i] for i in keep],
            [self.groups[i] for i in keep],
            {self.subjects[i]: self.aliases[self.subjects[i]] for i in keep},
            {style: self.images[style][keep] for style in STYLES},
            self.sources,
        )

    def combinations(self, *, held_out: bool) -> list[Combination]:
        """List all held-out or all training combinations of subject, style and background."""
        every = (Combination(s, style, b) for s in self.subjects for style in STYLES for b in BACKGROUNDS)
        return [c for c in every if is_held_out(c) == held_out]

    def image(self, combination: Combination, size: int) -> NDArray[np.uint8]:
        """Compose one image, UINT8 ``(size, size, 3)``."""
        rgba = self.images[combination.style][self.subjects.index(combination.subject)]
        composed: NDArray[np.uint8] = compose(rgba[None], np.array([BACKGROUNDS[combination.background]]), size)[0]
        return composed


def is_held_out(combination: Combination) -> bool:
    """Return whether a combination is never trained on: one in fourteen, fixed by the hash of its name."""
    return int(hashlib.sha256(combination.key.encode()).hexdigest(), 16) % _HELD_OUT_ONE_IN == 0


def compose(rgba: NDArray[np.uint8], background: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Put ``(n, 128, 128, 4)`` images on ``(n, 3)`` colours; return UINT8 ``(n, size, size, 3)``.

    Shrinks by exact area averaging, so ``size`` must divide 128.
    """
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    image = rgba[..., :3] * alpha + background[:, None, None, :].astype(np.float32) * (1.0 - alpha)
    factor = rgba.shape[1] // size
    n = rgba.shape[0]
    shrunk: NDArray[np.float32] = image.reshape(n, size, factor, size, factor, 3).mean(axis=(2, 4))
    return np.rint(shrunk).astype(np.uint8)


def build(out: Path, cache_dir: Path) -> EmojiDataset:
    """Fetch the sources, rasterise every subject both sets have, and write the dataset zip to ``out``."""
    icons = {"flat": sources.load(sources.FLUENT_FLAT, cache_dir), "noto": sources.load(sources.NOTO, cache_dir)}
    names = sources.load(sources.NAMES, cache_dir)
    keywords = sources.load(sources.KEYWORDS, cache_dir)
    subjects, groups, characters = _subjects(names, icons)
    aliases = _aliases(subjects, groups, characters=characters, keywords=keywords)
    images = {
        style: np.stack([_rasterise(icons[style], slug(s)) for s in tqdm(subjects, desc=f"rasterise {style}")])
        for style in STYLES
    }
    described = [{"package": s.package, "version": s.version, "licence": s.licence} for s in sources.ALL]
    dataset = EmojiDataset(subjects, groups, aliases, images, described)
    _write(dataset, out)
    return dataset


def slug(subject: str) -> str:
    """Return the icon name of a subject: ``red apple`` -> ``red-apple``."""
    return re.sub(r"[^a-z0-9]+", "-", subject).strip("-")


def _subjects(names: dict[str, Any], icons: dict[str, Any]) -> tuple[list[str], list[str], dict[str, str]]:
    subjects, groups, characters = [], [], {}
    for character, entry in names.items():
        name = entry["name"].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        available = all(slug(name) in icons[style]["icons"] for style in STYLES)
        if entry["group"] not in _GROUPS or _UNWANTED.search(name) or not available:
            continue
        subjects.append(name)
        groups.append(entry["group"])
        characters[name] = character
    return subjects, groups, characters


def _aliases(
    subjects: list[str], groups: list[str], *, characters: dict[str, str], keywords: dict[str, list[str]]
) -> dict[str, list[str]]:
    """List common names, then the first keyword that belongs only to this emoji and is no other subject's name."""
    used = Counter(word for words in keywords.values() for word in set(words))
    taken = set(subjects) | {name for names in COMMON_NAMES.values() for name in names}
    aliases = {}
    for subject, group in zip(subjects, groups):
        own = [w for w in keywords.get(characters[subject], []) if used[w] == 1 and w.isalpha() and len(w) > 3]
        usable = [w for w in own if w.isascii() and w not in taken | _UNWANTED_KEYWORDS]
        extra = usable[:1] if group in _KEYWORD_GROUPS else []
        aliases[subject] = COMMON_NAMES.get(subject, []) + extra
    return aliases


def _rasterise(icons: dict[str, Any], name: str) -> NDArray[np.uint8]:
    import resvg_py  # noqa: PLC0415 - only the build needs the rasteriser; training machines read the zip

    icon = icons["icons"][name]
    side = icon.get("width", icons["width"])
    margin = _MARGIN * side
    box = f"{-margin} {-margin} {side + 2 * margin} {side + 2 * margin}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RASTER_SIZE, height=RASTER_SIZE, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def _write(dataset: EmojiDataset, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        words = {
            "subjects": dataset.subjects,
            "groups": dataset.groups,
            "aliases": dataset.aliases,
            "sources": dataset.sources,
            "held_out": [c.key for c in dataset.combinations(held_out=True)],
        }
        _add(archive, "dataset.json", json.dumps(words, indent=1).encode())
        for style in STYLES:
            for subject, pixels in zip(dataset.subjects, dataset.images[style]):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
                _add(archive, f"{style}/{slug(subject)}.png", buffer.getvalue())
    partial.rename(out)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date keeps the file's own hash the same from build to build.
    archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)


def read(path: Path) -> EmojiDataset:
    """Read a dataset zip written by ``build``."""
    with zipfile.ZipFile(path) as archive:
        words = json.loads(archive.read("dataset.json"))

        def pixels(style: str, subject: str) -> NDArray[np.uint8]:
            return np.asarray(Image.open(io.BytesIO(archive.read(f"{style}/{slug(subject)}.png"))))

        images = {style: np.stack([pixels(style, s) for s in words["subjects"]]) for style in STYLES}
    return EmojiDataset(words["subjects"], words["groups"], words["aliases"], images, words["sources"])


def contact_sheet(dataset: EmojiDataset, columns: int = 24, cell: int = 64) -> Image.Image:
    """Show every subject, both styles side by side, each pair on the next background colour."""
    colours = np.array(list(BACKGROUNDS.values()))
    backgrounds = colours[np.arange(len(dataset.subjects)) % len(colours)]
    pairs = [compose(dataset.images[style], backgrounds, cell) for style in STYLES]
    cells = np.concatenate(pairs, axis=2)
    rows = -(-len(cells) * 2 // columns)
    sheet = np.full((rows * cell, columns * cell, 3), 255, np.uint8)
    for index, pair in enumerate(cells):
        row, column = divmod(index * 2, columns)
        sheet[row * cell : (row + 1) * cell, column * cell : (column + 2) * cell] = pair
    return Image.fromarray(sheet)


def card(dataset: EmojiDataset, file_bytes: int) -> str:
    """Write the data card in Markdown: sources, licences, counts and hash."""
    held_out = dataset.combinations(held_out=True)
    training = dataset.combinations(held_out=False)
    rows = "\n".join(f"| `{s['package']}` | {s['version']} | {s['licence']} |" for s in dataset.sources)
    groups = "\n".join(f"| {group} | {count} |" for group, count in Counter(dataset.groups).items())
    return f"""# Data card: emoji on plain backgrounds

Pictures of {len(dataset.subjects)} subjects in {len(STYLES)} styles ({", ".join(STYLES)}), composed with
{len(BACKGROUNDS)} background colours ({", ".join(BACKGROUNDS)}).
No skin-tone variants, flags, people, letters, clock faces or arrows.

| source (npm) | version | licence |
|---|---|---|
{rows}

`flat` is Fluent Emoji Flat (MIT, Microsoft); `noto` is Noto Emoji (pictures Apache-2.0, fonts OFL, Google).

| group | subjects |
|---|---|
{groups}

- training combinations: {len(training)}; held out, never trained on: {len(held_out)} (for example
  "{default_caption(held_out[0])}")
- content hash (names and pixels): `{dataset.content_hash}`
- file: {file_bytes / 2**20:.1f} MiB, rebuilt by `python -m aquatint_pipelines.mini dataset`
- contact sheet: `contact_sheet.png`
"""
