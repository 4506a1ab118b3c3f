"""Does a test notice? Small faults put into central code one by one, and the tests that must fail for each.

python -m tests.mutants [NAME …]

Works on a copy of the checkout and leaves the checkout as it is. Ends with 1 if any fault goes unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Weights and images are shared with the checkout; nothing here writes to them.
_LARGEST_COPY = 1 << 18
_PATIENCE_S = 300
_GREEN, _RED, _ELSEWHERE = 0, 1, 70
_SHOWN_LINES = 20
# Runs pytest, then makes sure that the copy was tested: an editable install has other ideas.
_PYTEST = f"""
import pathlib, sys, pytest
code = int(pytest.main(sys.argv[2:]))
root = pathlib.Path(sys.argv[1])
ours = [module for name, module in sys.modules.items() if name.startswith("aquatint")]
files = [pathlib.Path(module.__file__).resolve() for module in ours if getattr(module, "__file__", None)]
strange = [file for file in files if not file.is_relative_to(root)]
if strange or not files:
    print("not imported from the copy:", *strange)
    code = {_ELSEWHERE}
sys.exit(code)
"""


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``file`` the ``original`` text, which occurs once, becomes ``replacement``; ``tests`` must fail."""

    name: str
    file: str
    original: str
    replacement: str
    tests: tuple[str, ...]

    def put_into(self, root: Path) -> str:
        """Change the file; return its text before. Raises ``ValueError`` if the original is not there exactly once."""
        path = root / self.file
        text = path.read_text()
        if (count := text.count(self.original)) != 1:
            raise ValueError(f"{self.file} has {self.original!r} {count} times")
        path.write_text(text.replace(self.original, self.replacement))
        return text


_RETRIES = "tests/aquatint/client/test_client_retries.py"
_PIPELINE = "tests/aquatint/diffusion/test_pipeline.py"
_REQUEST = "tests/aquatint/contract/test_request.py"

MUTANTS = (
    Mutant(
        "the asynchronous client does not try again",
        "aquatint/client/_async.py",
        "return await tenacity.AsyncRetrying(**self._options.retrying(timeout_s))(once)",
        "return await once()",
        (_RETRIES,),
    ),
    Mutant(
        "the blocking client does not try a stream again",
        "aquatint/client/_sync.py",
        "event, rest = tenacity.Retrying(**self._options.retrying(timeout_s))(first)",
        "event, rest = first()",
        (_RETRIES,),
    ),
    Mutant(
        "what an overloaded server asks for is not heeded",
        "aquatint/client/_options.py",
        "max(_back_off_s(state), asked_s or 0.0)",
        "_back_off_s(state)",
        (_RETRIES,),
    ),
    Mutant(
        "a wait outlasts the deadline",
        "aquatint/client/_options.py",
        "tenacity.stop_before_delay(timeout_s)",
        "tenacity.stop_after_delay(timeout_s)",
        (_RETRIES,),
    ),
    Mutant(
        "when to retry is lost on the wire",
        "aquatint/contract/errors.py",
        "return Overloaded.from_text(message) if kind is Overloaded else kind(message)",
        "return kind(message)",
        ("tests/aquatint/contract/test_errors.py",),
    ),
    Mutant(
        "an error has another code",
        "aquatint/contract/errors.py",
        'DeadlineExceeded: Mapping(504, "DEADLINE_EXCEEDED"',
        'DeadlineExceeded: Mapping(503, "DEADLINE_EXCEEDED"',
        ("tests/aquatint/contract/test_errors.py",),
    ),
    Mutant(
        "previews are grey",
        "aquatint/diffusion/preview.py",
        "np.rint(np.clip(rgb, 0.0, 1.0) * np.float32(255.0))",
        "np.rint(np.clip(rgb * 0 + 0.5, 0.0, 1.0) * np.float32(255.0))",
        ("tests/aquatint/diffusion/test_preview.py", f"{_PIPELINE}::test_previews_show_the_image_to_come"),
    ),
    Mutant(
        "previews show the noise",
        "aquatint/diffusion/slot.py",
        "self.latents - sigma * velocity if due",
        "self.latents if due",
        (f"{_PIPELINE}::test_previews_show_the_image_to_come",),
    ),
    Mutant(
        "every image has the first one's seed",
        "aquatint/contract/request.py",
        "(self.seed + index) % (MAX_SEED + 1)",
        "self.seed % (MAX_SEED + 1)",
        (f"{_REQUEST}::test_seeds_count_up_and_stay_in_range",),
    ),
    Mutant(
        "guidance is off",
        "aquatint/diffusion/slot.py",
        "guided = guide(unconditional, conditional, self._scale)",
        "guided = conditional",
        (f"{_PIPELINE}::test_guidance_leads_away_from_the_negative_prompt",),
    ),
    Mutant(
        "the sampler steps the wrong way",
        "aquatint/diffusion/samplers/euler.py",
        "latents + (sigmas[index + 1] - sigmas[index]) * velocity",
        "latents - (sigmas[index + 1] - sigmas[index]) * velocity",
        (f"{_PIPELINE}::test_guidance_leads_away_from_the_negative_prompt",),
    ),
    Mutant(
        "words that did not fit are not counted",
        "aquatint/diffusion/pipeline.py",
        "dropped = max(dropped, tokens.dropped)",
        "dropped = max(dropped, 0)",
        (f"{_PIPELINE}::test_words_that_did_not_fit_are_counted",),
    ),
    Mutant(
        "one step too many is allowed",
        "aquatint/contract/request.py",
        "MAX_STEPS = 150",
        "MAX_STEPS = 151",
        (f"{_REQUEST}::test_limits_are_where_they_are_said_to_be",),
    ),
    Mutant(
        "the queue takes one too many",
        "backends/aquatint_runtime/local_generator.py",
        "if self.active >= self._max_active:",
        "if self.active > self._max_active:",
        ("tests/backends/test_local_generator.py",),
    ),
    Mutant(
        "changed files of a repository are served",
        "aquatint/repository/manifest.py",
        "if sha256(path) != expected:",
        "if not expected:",
        ("tests/aquatint/repository/test_manifest.py",),
    ),
    Mutant(
        "anybody may delete an image",
        "aquatint/images/store.py",
        "if owner is None or image.owner == owner:",
        "if owner is None or image.owner:",
        ("tests/aquatint/images/test_store.py",),
    ),
    Mutant(
        "requests of different shapes share a batch",
        "backends/batching.py",
        "groups[tuple((v.shape[1:], v.dtype) for v in inputs.values())]",
        "groups[tuple(v.dtype for v in inputs.values())]",
        ("tests/backends/test_batching.py",),
    ),
    Mutant(
        "a pipeline has KServe serve another folder",
        "pipelines/aquatint_pipelines/steps.py",
        "{opened.prefix(version)}{registry.REPOSITORY}",
        "{opened.prefix(version)}checkpoint",
        ("tests/pipelines/test_kserve.py::test_the_step_writes_where_the_version_is",),
    ),
    Mutant(
        "the VAE is not sliced",
        "backends/diffusers/placement.py",
        "vae.enable_slicing()",
        "vae.disable_slicing()",
        ("tests/backends/test_diffusers.py::test_a_sliced_vae_decodes_one_image_at_a_time",),
    ),
)


class Copy:
    """A copy of the checkout, whose packages are found under their own names before any that are installed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                _place(ROOT / name, self.root / name)
        packages = self.root / "build" / "packages"
        packages.mkdir(parents=True)
        folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
        for package, folder in folders.items():
            (packages / package).symlink_to(self.root / folder)
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{packages}{os.pathsep}{self.root}",
            # A file that changes twice within a second must be compiled twice.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def test(self, tests: Sequence[str]) -> tuple[int, str]:
        """Run pytest; return its exit code and what it said."""
        command = [sys.executable, "-c", _PYTEST, str(self.root), "-q", "-x", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=_PATIENCE_S * len(tests),
            )
        except subprocess.TimeoutExpired:
            return -1, f"no end after {_PATIENCE_S * len(tests)} s"
        return done.returncode, done.stdout


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size > _LARGEST_COPY:
        target.symlink_to(source)
    else:
        shutil.copyfile(source, target)


def judge(mutant: Mutant, copy: Copy) -> str:
    """Return ``noticed``, or what went wrong."""
    try:
        before = mutant.put_into(copy.root)
    except ValueError as error:
        return f"STALE: {error}"
    code, said = copy.test(mutant.tests)
    (copy.root / mutant.file).write_text(before)
    lines = said.strip().splitlines()
    # The last line counts errors outside of tests separately from failures.
    if code == _RED and "1 failed" in lines[-1] and " error" not in lines[-1]:
        return "noticed"
    # Anything else proves nothing: a syntax error, a fixture's error, a missing test, an import from elsewhere.
    return "SURVIVED" if code == _GREEN else "\n".join([f"BROKEN (pytest ended with {code}):", *lines[-_SHOWN_LINES:]])


def main(names: list[str]) -> int:
    """Print a line for every mutant; return the exit status."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory(prefix="aquatint-mutants-") as folder:
        copy = Copy(Path(folder))
        started = time.monotonic()
        code, said = copy.test(list(dict.fromkeys(test for mutant in chosen for test in mutant.tests)))
        if code != _GREEN:
            print(f"the tests are not green without any mutant:\n{said}")
            return 1
        print(f"all green without mutants ({time.monotonic() - started:.0f} s)", flush=True)
        bad = 0
        for mutant in chosen:
            began = time.monotonic()
            verdict = judge(mutant, copy)
            bad += verdict != "noticed"
            print(f"{mutant.name}: {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} noticed ({time.monotonic() - started:.0f} s)")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
