"""Kubeflow components: each only calls one plain function of this package, so all logic runs without Kubeflow too.

The image must hold the package; nothing is installed when a step starts.
"""

# KFP reads the annotations of component functions at run time, so they must not be postponed to strings.
import os

from kfp import dsl

BASE_IMAGE = os.environ.get("AQUATINT_PIPELINES_IMAGE", "aquatint/pipelines-python:latest")
_component = dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)


@_component
def build_mini_dataset(dataset: dsl.Output[dsl.Dataset], cache_dir: str = "/tmp/npm") -> str:
    """Build the emoji dataset; returns its content hash."""
    from pathlib import Path

    from aquatint_pipelines.mini import dataset as datasets

    return datasets.build(Path(dataset.path), Path(cache_dir)).content_hash


@_component
def train_mini(dataset: dsl.Input[dsl.Dataset], run: dsl.Output[dsl.Model], recipe: str = "gpu"):
    """Train VAE, transformer and judge by a recipe."""
    from pathlib import Path

    from aquatint_pipelines.mini.__main__ import train

    train(recipe, Path(dataset.path), Path(run.path))


@_component
def ship_mini(
    dataset: dsl.Input[dsl.Dataset], run: dsl.Input[dsl.Model], checkpoint: dsl.Output[dsl.Model], recipe: str = "gpu"
):
    """Write the trained run as a checkpoint with its scores and cards."""
    from pathlib import Path

    from aquatint_pipelines.mini.__main__ import ship

    ship(recipe, Path(dataset.path), Path(run.path), Path(checkpoint.path) / "mini")


@dsl.pipeline(name="mini-checkpoint")
def mini_checkpoint(recipe: str = "gpu"):
    """Data to judged checkpoint."""
    data = build_mini_dataset()
    trained = train_mini(dataset=data.outputs["dataset"], recipe=recipe)
    ship_mini(dataset=data.outputs["dataset"], run=trained.outputs["run"], recipe=recipe)
