"""``python -m aquatint_pipelines.mini``: build the dataset, train, judge and ship the mini checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aquatint_pipelines.mini import dataset as datasets
from aquatint_pipelines.mini import judge as judges
from aquatint_pipelines.mini import recipe as recipes
from aquatint_pipelines.mini import ship as shipping
from aquatint_pipelines.mini import snapshots, transformer, vae

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RecipeName = Annotated[str, typer.Option(help="cpu, cpu128, gpu, or a YAML file.")]
DatasetFile = Annotated[Path, typer.Option(help="The dataset zip.")]
Run = Annotated[Path | None, typer.Option(help="Folder of the training run; build/mini/<recipe> by default.")]
Checkpoint = Annotated[Path, typer.Option(help="The shipped checkpoint.")]

_DATASET = Path("build/mini/dataset.zip")
_CHECKPOINT = Path("pipelines/models/mini")


def _folder(run: Path | None, recipe: str) -> Path:
    return run or Path("build/mini") / recipe


@app.command()
def dataset(out: DatasetFile = _DATASET, cache: Annotated[Path, typer.Option()] = Path("build/npm")) -> None:
    """Fetch the pinned npm packages and build the dataset file; prints its content hash."""
    built = datasets.build(out, cache)
    print(f"{out}: {len(built.subjects)} subjects, content hash {built.content_hash}")


@app.command()
def train(recipe: RecipeName = "cpu", data: DatasetFile = _DATASET, run: Run = None) -> None:
    """Train VAE, transformer and judge by a recipe; resumes where an earlier run stopped."""
    loaded, chosen = datasets.read(data), recipes.load(recipe)
    run = _folder(run, chosen.name)
    vae.train(loaded, chosen, run)
    transformer.train(loaded, chosen, run)
    judges.train(loaded, chosen, run)


@app.command()
def ship(
    recipe: RecipeName = "cpu", data: DatasetFile = _DATASET, run: Run = None, out: Checkpoint = _CHECKPOINT
) -> None:
    """Write the trained run as the checkpoint the repository ships."""
    chosen = recipes.load(recipe)
    shipping.ship(datasets.read(data), data, recipe=chosen, run=_folder(run, chosen.name), out=out)


@app.command()
def pack(
    recipe: RecipeName = "cpu", run: Run = None, out: Annotated[Path, typer.Option()] = Path("build/mini/packed")
) -> None:
    """Pack a trained run into pieces of at most 15 MiB."""
    for piece in shipping.pack(_folder(run, recipes.load(recipe).name), out):
        print(piece)


@app.command()
def unpack(
    recipe: RecipeName = "cpu", packed: Annotated[Path, typer.Option()] = Path("build/mini/packed"), run: Run = None
) -> None:
    """Make a run folder of the pieces that ``pack`` wrote."""
    shipping.unpack(packed, _folder(run, recipes.load(recipe).name))


@app.command()
def snapshot(recipe: RecipeName = "cpu128", run: Run = None) -> None:
    """Copy the run's FP16 weights to where the recipe resumes from, with a card."""
    chosen = recipes.load(recipe)
    for path in snapshots.publish(chosen, _folder(run, chosen.name)):
        print(path)


@app.command()
def score(recipe: RecipeName = "cpu", data: DatasetFile = _DATASET, checkpoint: Checkpoint = _CHECKPOINT) -> None:
    """Judge the shipped checkpoint on the held-out prompts and rewrite its scores and card."""
    shipping.write_scores(datasets.read(data), recipes.load(recipe), checkpoint)
    print((checkpoint / "scores.json").read_text())


@app.command()
def sheet(checkpoint: Checkpoint = _CHECKPOINT) -> None:
    """Generate the sample sheet and the golden images again."""
    shipping.write_images(checkpoint)


if __name__ == "__main__":
    app()
