"""One process of a training run: what ``launch`` starts, or ``accelerate launch -m`` on several machines.

Arguments: checkpoint, dataset, recipe (a name or a YAML file), run folder, embedder.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from aquatint_pipelines.dreambooth import recipe, training
from aquatint_pipelines.dreambooth.embedding import open_embedder

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    checkpoint, dataset, name, run, embedder = sys.argv[1:]
    training.train(
        Path(checkpoint), Path(dataset), recipe=recipe.load(name), run=Path(run), embedder=open_embedder(embedder)
    )
