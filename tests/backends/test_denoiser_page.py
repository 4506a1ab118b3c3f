"""The shared memory between a text-to-image model and the denoiser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from aquatint_backends.denoiser.page import Page, Shape

SHAPE = Shape(latents=(2, 16, 8, 8), evaluations=4, preview_every=2)
MAKER = """
import time
from aquatint_backends.denoiser.page import Page, Shape
page = Page.make(Shape(latents=(2, 16, 8, 8), evaluations=4, preview_every=2))
print(page.token, flush=True)
time.sleep(60)
"""


def left() -> set[Path]:
    return set(Path("/dev/shm").glob("aquatint-*-" + "[0-9a-f]" * 32))


def test_progress_previews_and_cancelling_cross_it() -> None:
    before = left()
    ours = Page.make(SHAPE)
    theirs = Page.open(ours.token, SHAPE)
    preview = np.full(SHAPE.latents, 0.5, np.float32)
    theirs.advance(1, None)
    theirs.advance(2, preview)
    assert ours.evaluated == 2
    assert ours.preview_after(1) is None
    assert np.array_equal(ours.preview_after(2), preview)  # type: ignore[arg-type]  # not None, as it is due
    assert not theirs.is_cancelled
    ours.cancel()
    assert theirs.is_cancelled
    ours.close()
    theirs.close()
    assert left() == before


def test_nothing_is_left_of_a_killed_process() -> None:
    before = left()
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        page = Page.open(maker.stdout.readline().strip(), SHAPE)
        maker.kill()
    assert left() == before
    # Nobody reads it any more, but the denoiser may still write.
    page.advance(1, None)
    page.close()


@pytest.mark.parametrize("token", ["../../etc/passwd", "0" * 32, ""])
def test_other_files_are_not_opened(token: str) -> None:
    with pytest.raises(ValueError, match="page"):
        Page.open(token, SHAPE)
