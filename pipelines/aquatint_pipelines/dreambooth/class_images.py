"""The base model's own images of other things, for prior preservation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from aquatint.contract.errors import InvalidRequest
from aquatint_pipelines.dreambooth import data
from aquatint_pipelines.dreambooth.data import Dataset
from aquatint_pipelines.dreambooth.recipe import DreamboothRecipe
from aquatint_pipelines.generating import generate, load_pipeline


def add(checkpoint: Path, dataset: Path, recipe: DreamboothRecipe) -> Dataset:
    """Generate the recipe's class prompts in turn, seeds 0, 1, …, into the dataset folder.

    Raises ``InvalidRequest`` if a class prompt names the subject.
    """
    described = data.read(dataset)
    prior = recipe.prior
    if prior is None:
        return described
    if named := [prompt for prompt in prior.prompts if described.token in prompt]:
        raise InvalidRequest(f"prior.prompts: {named[0]!r} names the subject itself")
    prompts = [prior.prompts[index % len(prior.prompts)] for index in range(prior.num_class_images)]
    images = generate(
        load_pipeline(checkpoint),
        prompts,
        seeds=list(range(len(prompts))),
        sampling=recipe.sampling,
    )
    return data.add_class_images(dataset, list(zip(prompts, map(Image.fromarray, images))))
