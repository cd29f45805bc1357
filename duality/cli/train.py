"""`duality train` and `duality embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [datasets/default].")
@click.option("--out", type=click.Path(path_type=Path), help="Model folder [models/default].")
@click.option("--recipe", type=click.Path(path_type=Path), help="TOML file with the settings.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting.")
@click.option("--epochs", type=click.IntRange(min=1), help="Short for --set train.epochs=N.")
@click.option("--seed", type=int, help="Short for --set train.seed=N.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@json_option
def train(
    data: Path | None,
    out: Path | None,
    recipe: Path | None,
    overrides: tuple[str, ...],
    epochs: int | None,
    seed: int | None,
    device: str,
    resume: bool,
    as_json: bool,
) -> None:
    """Train both encoders jointly; the best epoch by validation is kept."""
    from duality.workflows.recipe import load_recipe
    from duality.workflows.train import train as run

    short = {"train.epochs": epochs, "train.seed": seed}
    settings = [*overrides, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    loaded = load_recipe(recipe, settings)
    document = run(
        data or home() / loaded.paths.dataset,
        out or home() / loaded.paths.model,
        loaded,
        device=device,
        resume=resume,
    )
    if document:  # of several processes the first answers
        emit(document, as_json, _show)


def _show(document: dict[str, Any]) -> None:
    click.echo(f"model {document['model']}: best epoch {document['best_epoch']} of {document['epochs']}")
    for name, value in document["validation"].items():
        click.echo(f"  validation {name:28} {value:.4f}")
    click.echo(f"  {document['seconds']:,.0f} s, {document['positions_per_second']:,} positions/s")


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Model folder [models/default].")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [the model's own].")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the two files.")
@json_option
def embed(model: Path | None, data: Path | None, out: Path, as_json: bool) -> None:
    """Write the embeddings of both sides as Parquet: users.parquet and items.parquet."""
    from duality.workflows.build import embed as run

    document = run(model or home() / "models/default", out, data)
    emit(
        document,
        as_json,
        lambda d: click.echo(f"{out}: {d['users']:,} users, {d['items']:,} items, {d['dim']} dimensions"),
    )
