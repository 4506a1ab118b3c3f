"""The four npm packages the dataset is made from, pinned by version and by npm's own sha512 integrity."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """One npm package and the single JSON file read from it."""

    package: str
    version: str
    integrity: str
    licence: str
    member: str

    @property
    def archive_name(self) -> str:
        """The file name that ``npm pack`` gives the archive."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


FLUENT_FLAT = Source(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    "MIT",
    "package/icons.json",
)
NOTO = Source(
    "@iconify-json/noto",
    "1.2.9",
    "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    "Apache-2.0",
    "package/icons.json",
)
NAMES = Source(
    "unicode-emoji-json",
    "0.9.0",
    "sha512-HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
    "MIT",
    "package/data-by-emoji.json",
)
KEYWORDS = Source(
    "emojilib",
    "4.0.3",
    "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    "MIT",
    "package/dist/emoji-en-US.json",
)
ALL = (FLUENT_FLAT, NOTO, NAMES, KEYWORDS)


def _check_integrity(archive: Path, source: Source) -> None:
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != source.integrity:
        raise ValueError(f"{source.package}@{source.version}: integrity is {found}, expected {source.integrity}")


def load(source: Source, cache_dir: Path) -> dict[str, Any]:
    """Return the package's JSON, packing it with npm into ``cache_dir`` when it is not there yet.

    Raises ``ValueError`` when the archive's sha512 differs from the pinned one.
    """
    archive = cache_dir / source.archive_name
    if not archive.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"{source.package}@{source.version}", "--pack-destination", str(cache_dir)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _check_integrity(archive, source)
    with tarfile.open(archive) as tar:
        member = tar.extractfile(source.member)
        if member is None:
            raise ValueError(f"{source.package}@{source.version} has no {source.member}")
        data: dict[str, Any] = json.load(member)
        return data
