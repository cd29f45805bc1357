"""`duality data`: import an interaction log and describe it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home

_PATH = click.Path(path_type=Path)
_BAR = 30


@click.group()
def data() -> None:
    """Import an interaction log and describe it."""


@data.command("import")
@click.argument("source", type=_PATH)
@click.option("--out", type=_PATH, help="Dataset folder to write  [datasets/default]")
@click.option("--user-column", help="Column of user ids; by default one with a usual name.")
@click.option("--item-column", help="Column of item ids; by default one with a usual name.")
@click.option("--time-column", help="Column of times; by default one with a usual name.")
@click.option("--order-column", help="Column that orders each user's events, where it is not the time.")
@click.option("--event-column", help="Keep only rows where this column is true or positive.")
@click.option("--min-user-events", type=click.IntRange(1), default=1, help="Drop users with fewer events.")
@click.option("--min-item-events", type=click.IntRange(1), default=1, help="Drop items with fewer events.")
@click.option("--where", help='Keep only rows that meet this filter, e.g. "rating >= 4".')
@click.option(
    "--repeats",
    type=click.Choice(["keep", "first", "last"]),
    default="keep",
    help="Which events of one user with one item stay  [keep]",
)
@click.option("--users", type=_PATH, help="Parquet or CSV of user attributes, with an id column.")
@click.option("--items", type=_PATH, help="Parquet or CSV of item attributes, with an id column.")
@click.option("--time-from", type=_PATH, help="Another log to take times from, joined by (user, item) pair.")
@click.option("--time-user-map", help="User attribute that holds the other log's user ids.")
@click.option("--time-item-map", help="Item attribute that holds the other log's item ids.")
@click.option("--seed", type=int, default=0, help="Of the hash that orders equal times.")
@click.option("--memory-limit", default="1GB", help="Of the import; larger logs spill to disk  [1GB]")
@json_option
def import_(
    source: Path,
    out: Path | None,
    time_from: Path | None,
    time_user_map: str | None,
    time_item_map: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Import SOURCE into a dataset folder.

    SOURCE is Parquet, CSV/TSV, JSON lines, RecBole .inter, a MovieLens folder, or a folder with
    interactions.parquet (and users.parquet, items.parquet).
    """
    from duality.data.importing import import_events
    from duality.data.join_time import JoinTime

    if time_from is None and (time_user_map or time_item_map):
        raise click.UsageError("--time-user-map and --time-item-map go with --time-from")
    join = JoinTime(time_from, time_user_map, time_item_map) if time_from else None
    document = import_events(source, out or home() / "datasets" / "default", join_time=join, **options)
    emit(document, as_json, _render_import)


@data.command()
@click.argument("dataset", type=_PATH, required=False)
@json_option
def describe(dataset: Path | None, as_json: bool) -> None:
    """Counts, histograms and sequence statistics of DATASET  [datasets/default]."""
    from duality.data.dataset import Dataset
    from duality.data.statistics import describe as describe_dataset

    document = describe_dataset(Dataset.open(dataset or home() / "datasets" / "default"))
    emit(document, as_json, _render_describe)


def _render_import(document: dict[str, Any]) -> None:
    _render_facts(document)
    click.echo(f"{'seconds':<12} {document['seconds']}")
    click.echo(f"\nnext: duality data describe {document['dataset']}")


def _render_facts(document: Mapping[str, Any]) -> None:
    click.echo(f"{'dataset':<12} {document['dataset']}")
    roles = [f"{column} is the {role}" for role, column in document["mapping"].items() if column]
    unit = f" (time in {document['time_unit']})" if document["time_unit"] else ""
    click.echo(f"{'columns':<12} {', '.join(roles)}{unit}")
    for name in ("users", "items", "events"):
        click.echo(f"{name:<12} {document[name]:,}")
    for reason, count in document["dropped"].items():
        click.echo(f"{'dropped':<12} {count:,} rows by {reason}")
    for side in ("users", "items"):
        if document[f"{side}_without_events"]:
            click.echo(f"{'left out':<12} {document[f'{side}_without_events']:,} {side} without events")
    if document["timed"]:
        click.echo(f"{'from, to':<12} {document['first_event']}, {document['last_event']}")
        if document["order_disagrees_with_time"]:
            click.echo(
                f"{'note':<12} {document['order_disagrees_with_time']:,} events stand before an earlier one"
            )
    else:
        click.echo(f"{'note':<12} item histories are sets: this log has an order per user but no time")


def _render_describe(document: dict[str, Any]) -> None:
    _render_facts(document)
    found = document["statistics"]
    for side in ("user", "item"):
        numbers = found[f"events_per_{side}"]
        shown = ", ".join(
            f"{key} {numbers[key]:,.4g}" for key in ("min", "p25", "median", "p75", "p99", "max")
        )
        click.echo(
            f"\nevents per {side}: {shown}; mean {numbers['mean']:,.4g}; gini {found[f'{side}_gini']:.3f}"
        )
        _bars({_range(bin_): bin_["count"] for bin_ in numbers["histogram"]})
    click.echo(f"\ndensity {found['density']:.3%}, repeated events {found['repeats_share']:.2%}, ", nl=False)
    click.echo(f"the top 1% of items draw {found['top_1_percent_items_share']:.1%} of the events")
    if document["timed"]:
        gaps = found["gap_seconds"]
        click.echo(
            f"{found['tied_time_share']:.1%} of the events share their time with a neighbour of the same user"
        )
        if gaps:
            shown = f"median {gaps['median']:,.4g} s, 90th percentile {gaps['p90']:,.4g} s"
            click.echo(f"gap between two events of a user: {shown}")
        click.echo("\nevents per month")
        _bars(found["events_per_month"])


def _range(bin_: Mapping[str, int]) -> str:
    return str(bin_["from"]) if bin_["from"] == bin_["to"] else f"{bin_['from']:,}-{bin_['to']:,}"


def _bars(counts: Mapping[str, int]) -> None:
    """Print a histogram, one labelled bar per line, the longest bar at full width."""
    largest = max(counts.values())
    width = max(map(len, counts))
    for label, count in counts.items():
        click.echo(f"  {label:>{width}}  {'█' * round(_BAR * count / largest):<{_BAR}}  {count:,}")
