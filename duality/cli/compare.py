"""`duality compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import csv_ids, emit, json_option


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [the models' own].")
@click.option(
    "--direction",
    type=click.Choice(["user-to-item", "item-to-user", "both"]),
    default="both",
    show_default=True,
)
@click.option(
    "--protocol",
    type=click.Choice(["leave-one-out", "temporal"]),
    help="[the one the models were trained for]",
)
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option("--metrics", default="ndcg@10,recall@100", show_default=True, help="Metric names.")
@click.option("--baselines", is_flag=True, help="Also compare with model-free baselines.")
@click.option("--against", metavar="NAME", help="Compare the others with this one only [all pairs].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of bootstrap and randomisation.")
@json_option
def compare(
    models: tuple[str, ...],
    data: Path | None,
    direction: str,
    protocol: str | None,
    split: str,
    metrics: str,
    baselines: bool,
    against: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Which model is better, or that no difference is shown.

    MODEL is a folder; folders joined by commas are seeds of one model; NAME=A,B,C names it.
    """
    from duality.workflows.compare import compare as measure

    report = measure(
        models,
        data=data,
        direction=direction,
        protocol=protocol,
        split=split,
        metrics=csv_ids(metrics),
        baselines=baselines,
        against=against,
        seed=seed,
    )
    emit(report, as_json, show_comparison)


def show_comparison(report: dict[str, Any]) -> None:
    """Print, per direction and candidates, what each model reaches and what each pair shows."""
    from rich.console import Console

    console = Console(width=132, highlight=False)
    for direction, part in report.items():
        for table in (part, part.get("time_matched")):
            if table:
                _show_table(console, direction, table)
    rows = [row for part in report.values() for row in part["comparisons"]]
    together = next(iter(report.values()))["judged_together"]
    console.print(f"p: randomisation test; Holm over the {together} comparisons above.", style="dim")
    for line in notes(rows, together):
        console.print(line, style="dim")


def notes(rows: list[dict[str, Any]], together: int) -> list[str]:
    """What the verdicts speak of, one line each."""
    lines = []
    if any(row["about"] == "trained models" for row in rows):
        lines.append(
            "Sources alone are resampled where a model has fewer than 4 seeds: too few to claim anything about "
            "the method. Those verdicts speak of these trained models; training again may turn them round."
        )
    least = [row["smallest_p"] for row in rows if row["about"] == "methods"]
    if least:
        lines.append(
            "Sources and seeds are resampled together where both have 4 seeds: that is about methods."
        )
    if least and max(least) * together > 0.05:
        lines.append(
            f"So few seeds cannot give a p under {max(least):.2g}; over {together} comparisons that may not be "
            "enough to show anything: train more seeds or ask for fewer metrics."
        )
    return lines


def _show_table(console: Any, direction: str, part: dict[str, Any]) -> None:
    from rich.table import Table

    names = list(next(iter(part["models"].values()))["metrics"])
    console.print(f"{direction}: {part['queries']:,} queries; candidates: {part['candidates']}")
    shown = Table()
    for name in ("", "seeds", *names):
        shown.add_column(name, justify="left" if name == "" else "right")
    for who, model in part["models"].items():
        cells = [_cell(model["metrics"][name], "value", "{:.4f}") for name in names]
        shown.add_row(who, str(model["seeds"]), *cells)
    console.print(shown)
    for row in part["comparisons"]:
        words = row["verdict"].replace("first", row["first"]).replace("second", row["second"])
        difference = _cell(row, "difference", "{:+.4f}")
        pair = f"{row['first']} - {row['second']}, {row['metric']}"
        console.print(
            f"  {pair}: {difference}, p {row['p']:.4f} (Holm {row['p_holm']:.4f}): [bold]{words}[/]"
        )


def _cell(row: dict[str, Any], value: str, form: str) -> str:
    shown = form.format(row[value])
    # The backslash keeps rich from reading the bracket as markup.
    return (
        shown if row["low"] is None else f"{shown} \\[{form.format(row['low'])}, {form.format(row['high'])}]"
    )
