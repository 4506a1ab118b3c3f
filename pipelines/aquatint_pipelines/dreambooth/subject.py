"""The demo subject: five images of a dog with a red hat, drawn from a permissively licensed emoji.

The dog is Fluent Emoji Flat's (MIT, Microsoft); the hat is ours (Apache-2.0, like this repository).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from aquatint_pipelines.mini import sources
from aquatint_pipelines.mini.captions import BACKGROUNDS

TOKEN = "rhdog"
SIZE = 256
# On the dog's own 32-unit canvas: crown with a dent, band, brim.
_HAT = """
<path d="M8.2 5.6 C8.2 -1 9.6 -5 12.6 -5 C14.2 -5 14.8 -4.2 16 -4.2 C17.2 -4.2 17.8 -5 19.4 -5
 C22.4 -5 23.8 -1 23.8 5.6 Z" fill="#e3131b"/>
<path d="M8 2.6 L24 2.6 L24.2 5.8 L7.8 5.8 Z" fill="#2b1215"/>
<path d="M2.6 4.6 C6 6 26 6 29.4 4.6 C30.6 6.6 25 8.8 16 8.8 C7 8.8 1.4 6.6 2.6 4.6 Z" fill="#c40d15"/>
"""


@dataclass(frozen=True)
class Pose:
    """One image: degrees of tilt, whether mirrored, size on the canvas, background's name."""

    tilt: float
    mirrored: bool
    scale: float
    background: str


POSES = (
    Pose(0.0, mirrored=False, scale=1.0, background="blue"),
    Pose(-9.0, mirrored=False, scale=0.94, background="yellow"),
    Pose(9.0, mirrored=False, scale=0.94, background="white"),
    Pose(0.0, mirrored=True, scale=0.88, background="purple"),
    Pose(5.0, mirrored=True, scale=1.0, background="pink"),
)


def write(folder: Path, cache: Path) -> list[Path]:
    """Draw the images and their captions into ``folder``; the emoji is fetched into ``cache`` by npm.

    Each image's caption is in a text file beside it, with ``{token}`` where the rare token goes.
    """
    dog = sources.load(sources.FLUENT_FLAT, cache)["icons"]["dog-face"]["body"]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, pose in enumerate(POSES):
        path = folder / f"dog-{index + 1}.png"
        draw(dog, pose).save(path, optimize=True)
        path.with_suffix(".txt").write_text(f"a flat emoji of a {{token}} on a {pose.background} background\n")
        written.append(path)
    return written


def draw(dog: str, pose: Pose) -> Image.Image:
    """Draw one pose, RGB ``(SIZE, SIZE)``; ``dog`` is the emoji's SVG body."""
    import resvg_py  # noqa: PLC0415 - only this needs the rasteriser

    mirror = "scale(-1 1)" if pose.mirrored else ""
    placed = f"translate(16 17.6) rotate({pose.tilt}) scale({0.86 * pose.scale}) {mirror} translate(-16 -13.2)"
    red, green, blue = BACKGROUNDS[pose.background]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" fill="rgb({red},{green},{blue})"/><g transform="{placed}">{dog}{_HAT}</g></svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")
