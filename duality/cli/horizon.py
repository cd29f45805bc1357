"""`duality horizon`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Model folder [models/default].")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [the model's own].")
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which cut of a temporal split.",
)
@click.option("--steps", default="1,5,10", show_default=True, help="How far ahead.")
@click.option("--beam", type=int, default=5, show_default=True, help="Sequences that the beam keeps.")
@click.option("--samples", type=int, default=30, show_default=True, help="Sequences drawn per user.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the draws.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def horizon(
    model: Path | None,
    data: Path | None,
    split: str,
    steps: str,
    beam: int,
    samples: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Several steps ahead: greedy, beam and sampled futures against plain top-h."""
    from duality.model.decoding import Decoding
    from duality.workflows.horizon import horizon as measure

    options = Decoding(_steps(steps), beam, samples, temperature, seed)
    report = measure(model or home() / "models/default", data=data, split=split, options=options)
    emit(report, as_json, show_horizon)


def _steps(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"'{text}': write whole numbers, e.g. 1,5,10", param_hint="--steps")
    return tuple(sorted({int(part) for part in parts}))


def show_horizon(report: dict[str, Any]) -> None:
    """Print one table per horizon; a star marks a difference to top-h whose interval excludes 0."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    for h, part in report["horizons"].items():
        table = Table(title=f"next {h}: {part['queries']:,} users")
        names = list(next(iter(part["metrics"].values())))
        for heading in ("", *names):
            table.add_column(heading, justify="right" if heading else "left")
        for method, metrics in part["metrics"].items():
            shown = part["comparisons"].get(method, {})
            table.add_row(method, *(_cell(metrics[name], shown.get(name)) for name in names))
        console.print(table)
    for key, value in report["protocol"].items():
        if value:
            console.print(f"{key}: {value}", style="dim", highlight=False)


def _cell(metric: dict[str, Any], difference: dict[str, Any] | None) -> str:
    star = " *" if difference and difference["shown"] else "  "
    if metric["low"] is None:
        return f"{metric['value']:.4f}{star}"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]{star}"
