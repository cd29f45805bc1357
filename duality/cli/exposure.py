"""`duality exposure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home

ROWS = (
    ("NDCG", lambda part: _number(part.get("accuracy", {}).get("ndcg"))),
    ("coverage", lambda part: _number(part["items"]["coverage"])),
    ("Gini of items", lambda part: _number(part["items"]["gini"])),
    ("top 1% of items", lambda part: _number(part["items"]["top_1%_share"])),
    ("largest item", lambda part: _number(part["items"]["largest_share"])),
    ("popularity lift", lambda part: _number(part["popularity_lift"])),
    ("providers never shown", lambda part: _number(part["providers"]["never_shown"])),
    ("median ratio", lambda part: _number(part["providers"]["ratio"]["0.5"])),
    ("ratio 0.5 to 2", lambda part: _number(part["providers"]["ratio_half_to_double"])),
    ("rank correlation", lambda part: _number(part["providers"]["spearman"])),
    ("gap to optimum", lambda part: _number(part.get("gap"))),
    ("floors missed", lambda part: str(part.get("floors_missed", ""))),
    ("unfilled slots", lambda part: str(part.get("unfilled", ""))),
)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Model folder [models/default].")
@click.option("--index", type=click.Path(path_type=Path), help="Index folder, instead of a model.")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [the recorded one].")
@click.option(
    "--direction",
    type=click.Choice(["user-to-item", "item-to-user"]),
    default="user-to-item",
    show_default=True,
    help="Items shown to users, or users targeted for items.",
)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Slots of a list.")
@click.option("--provider", metavar="COLUMN", help="Who offers what is listed [each row its own].")
@click.option("--floor", metavar="A[,A...]", help="Re-rank: share of the due slots each provider gets.")
@click.option("--ceiling", type=float, metavar="B", help="Re-rank: largest share of all slots of one row.")
@click.option(
    "--merit",
    type=click.Choice(["interactions", "uniform"]),
    default="interactions",
    show_default=True,
    help="What a provider is due.",
)
@json_option
def exposure(
    model: Path | None,
    index: Path | None,
    data: Path | None,
    direction: str,
    k: int,
    provider: str | None,
    floor: str | None,
    ceiling: float | None,
    merit: str,
    as_json: bool,
) -> None:
    """Who is shown how often, and what a floor or a ceiling would cost."""
    from duality.workflows.exposure import Rules, parse_floors
    from duality.workflows.exposure import exposure as measure

    report = measure(
        model or (None if index else home() / "models/default"),
        index=index,
        data=data,
        direction=direction,
        k=k,
        provider=provider,
        rules=Rules(parse_floors(floor), ceiling, merit),
    )
    emit(report, as_json, show_exposure)


def show_exposure(report: dict[str, Any]) -> None:
    """Print one column for the plain lists and one per re-ranking."""
    from rich.console import Console
    from rich.table import Table

    console, parts = Console(width=120), [report["lists"], *report["reranked"]]
    table = Table()
    for name in ("", "as ranked", *(f"floor {part['floor']:g}" for part in report["reranked"])):
        table.add_column(name, justify="right" if name else "left")
    for name, cell in ROWS:
        table.add_row(name, *(cell(part) for part in parts))
    console.print(table)
    for part in report["reranked"]:
        if part["floors_missed"]:
            console.print(
                f"floor {part['floor']:g}: {part['floors_missed']:,} providers cannot reach theirs, "
                f"{part['slots_missing']:,} slots short: too few queries may be shown their items"
            )
    for key, value in report["protocol"].items():
        console.print(f"{key}: {value}", style="dim", highlight=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
