"""A list of prompts to images in a bucket: ``bucketed CSV of prompts -> images with metadata -> S3``.

The CSV has a column ``prompt`` and may have any other field of the request (``seed``, ``width``, …) and ``bucket``, the
folder the image goes to. What the base model makes of such a list shows its best and worst before anyone tunes it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import random
from pathlib import Path
from typing import Any

from aquatint.client import Client
from aquatint.contract import request
from aquatint.contract.errors import AquatintError, InvalidRequest
from aquatint.contract.request import GenerationRequest
from aquatint.storage import ObjectNotFound, ObjectStore, open_objects

_MAX_ROWS = 100_000
_MAX_BYTES = 64 << 20
_RESULTS = "results.csv"


def generate_list(templates: dict[str, list[str]], words: dict[str, list[str]], *, count: int, seed: int) -> str:
    """Make a CSV of ``count`` different prompts in random order: templates by bucket, ``{word}`` filled from ``words``.

    Raises ``InvalidRequest`` if a template names an unknown word, or there are not that many prompts.
    """
    rows = []
    for bucket, texts in templates.items():
        for template in texts:
            names = [name for name in words if f"{{{name}}}" in template]
            for chosen in itertools.product(*(words[name] for name in names)):
                filled = template
                for name, word in zip(names, chosen):
                    filled = filled.replace(f"{{{name}}}", word)
                if "{" in filled:
                    raise InvalidRequest(f"templates: no words for {filled[filled.index('{') :]!r}")
                rows.append((bucket, filled))
    if count > len(rows):
        raise InvalidRequest(f"count: {count} prompts are asked for, {len(rows)} can be made")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["bucket", "prompt", "seed"])
    for index, (bucket, prompt) in enumerate(random.Random(seed).sample(rows, count)):
        writer.writerow([bucket, prompt, seed + index])
    return text.getvalue()


def read_list(data: bytes) -> list[tuple[str, GenerationRequest]]:
    """Read the bucket and request of every row. Raises ``InvalidRequest`` naming the line that cannot be used."""
    if len(data) > _MAX_BYTES:
        raise InvalidRequest(f"prompts: {len(data)} bytes are more than {_MAX_BYTES}")
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"prompts: is no CSV in UTF-8: {error}") from error
    if not rows or len(rows) > _MAX_ROWS:
        raise InvalidRequest(f"prompts: must have 1 to {_MAX_ROWS} rows, has {len(rows)}")
    return [_row(number, row) for number, row in enumerate(rows, start=2)]


def _row(line: int, row: dict[str | None, Any]) -> tuple[str, GenerationRequest]:
    fields: dict[str, Any] = {}
    for name, value in row.items():
        if name is None or value is None:
            raise InvalidRequest(f"prompts: line {line} has not as many cells as the header")
        if value != "":
            fields[name] = value if name in ("prompt", "negative_prompt", "bucket", "model") else _number(value)
    bucket = str(fields.pop("bucket", "all"))
    if not bucket.replace("-", "").replace("_", "").isalnum():
        raise InvalidRequest(f"prompts: line {line}: bucket must be letters, digits, '-' and '_', is {bucket!r}")
    try:
        return bucket, request.parse(fields)
    except InvalidRequest as error:
        raise InvalidRequest(f"prompts: line {line}: {error}") from None


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def generate_images(client: Client, store: ObjectStore, rows: list[tuple[str, GenerationRequest]]) -> dict[str, int]:
    """Generate every row to ``<bucket>/<hash of the request>-<seed>.png``, with ``<bucket>/<hash>.json`` beside it.

    Rows whose JSON is already there are skipped, so a run that was killed can resume. A row that fails does not stop
    the others; ``results.csv``, written last, says what became of each. Returns how many were generated (``drawn``),
    kept and failed.
    """
    counts = {"drawn": 0, "kept": 0, "failed": 0}
    done = {info.key for info in store.list("") if info.key.endswith(".json")}
    results = io.StringIO()
    writer = csv.writer(results, lineterminator="\n")
    writer.writerow(["bucket", "prompt", "key", "result", "error"])
    for bucket, wanted in rows:
        key = f"{bucket}/{hashlib.sha256(wanted.model_dump_json().encode()).hexdigest()[:24]}"
        result, error = "kept", ""
        if f"{key}.json" not in done:
            try:
                _generate(client, store, key=key, wanted=wanted)
                result = "drawn"
            except AquatintError as failure:
                result, error = "failed", f"{type(failure).__name__}: {failure}"
        counts[result] += 1
        writer.writerow([bucket, wanted.prompt, key, result, error])
    store.put(_RESULTS, results.getvalue().encode(), "text/csv")
    return counts


def _generate(client: Client, store: ObjectStore, *, key: str, wanted: GenerationRequest) -> None:
    made = client.generate(wanted)
    files = [f"{key}-{image.seed}.png" for image in made.images]
    for file, image in zip(files, made.images):
        store.put(file, image.png, "image/png")
    # Last: it says that the images are there.
    described = {"files": files, "parameters": made.parameters.model_dump(mode="json"), "timings": made.timings}
    store.put(f"{key}.json", json.dumps(described).encode(), "application/json")


def read_source(source: str) -> bytes:
    """Read a CSV from a file or from ``s3://bucket/key``. Raises ``InvalidRequest`` if it is not there."""
    if not source.startswith("s3://"):
        path = Path(source)
        if not path.is_file():
            raise InvalidRequest(f"prompts: there is no file {source}")
        return path.read_bytes()
    prefix, _, key = source.rpartition("/")
    try:
        return open_objects(prefix).get(key)
    except ObjectNotFound:
        raise InvalidRequest(f"prompts: there is no {source}") from None
