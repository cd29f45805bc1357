"""`duality index`: sizes, checks, compaction, snapshots, generations, tuning, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.cli.index import _FILE, _index, _side, index

_name = click.argument("name")


@index.command()
@_index
@json_option
def stats(index: Path, as_json: bool) -> None:
    """Sizes and versions of both sides."""
    from duality.index.stores import open_index

    with open_index(index) as pair:
        document = _sides(pair)
    emit(document, as_json, _show_sides)


@index.command()
@_index
@json_option
@click.pass_context
def verify(context: click.Context, index: Path, as_json: bool) -> None:
    """Compare everything stored with its checksums; exit code 1 on damage."""
    from duality.index.stores import verify_index

    problems = verify_index(index)
    document = {"ok": not problems, "problems": problems}
    emit(document, as_json, lambda d: click.echo("\n".join(problems) or f"{index}: everything is as written"))
    if problems:
        context.exit(1)


@index.command()
@_index
@json_option
def compact(index: Path, as_json: bool) -> None:
    """Give back the space of removed records and rebuild the search structures."""
    from duality.index.stores import SIDES, open_index

    with open_index(index, "w") as pair:
        for name in SIDES:
            pair.side(name).compact()
        document = _sides(pair)
    emit(document, as_json, _show_sides)


@index.command()
@_index
@_side
@click.option("--out", type=_FILE, required=True, help="Parquet file to write, or .npy for vectors and ids.")
@json_option
def export(index: Path, side: str, out: Path, as_json: bool) -> None:
    """Write one side: id, vector, attributes as Parquet; or vectors as .npy and ids as .ids.npy."""
    from duality.index.stores import open_index

    with open_index(index) as pair:
        chosen = pair.side(side)
        document = {"exported": chosen.export(out), "version": chosen.version, "out": str(out)}
    emit(document, as_json, lambda d: click.echo(f"{out}: {d['exported']:,} records"))


@index.command()
@_index
@_side
@click.option(
    "--target-recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.98,
    show_default=True,
    help="Share of the exact neighbours to find.",
)
@click.option(
    "--from", "source", type=_FILE, help="Parquet file of query vectors [a sample of the other side]."
)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Results per query.")
@json_option
def tune(index: Path, side: str, target_recall: float, source: Path | None, k: int, as_json: bool) -> None:
    """Measure search settings, and keep the fastest that finds enough of the exact neighbours."""
    from duality.index.stores import open_index, tuning_queries

    with open_index(index, "w") as pair:
        tuned = pair.tune(side, tuning_queries(pair, side, source), k, target_recall)
    document = {"side": side, "k": k, "target_recall": target_recall, **tuned.as_dict()}
    emit(document, as_json, _show_tuned)


@index.command()
@_index
@json_option
def rollback(index: Path, as_json: bool) -> None:
    """Make the previous generation serve again; a second time leads back."""
    from duality.index.stores import open_index

    with open_index(index, "w") as pair:
        pair.rollback()
        document = _sides(pair)
    emit(document, as_json, _show_sides)


@index.group()
def snapshot() -> None:
    """Named copies of an index."""


@snapshot.command()
@_index
@_name
@json_option
def create(index: Path, name: str, as_json: bool) -> None:
    """Keep a copy of the index as it is now."""
    from duality.index.stores import open_index

    with open_index(index) as pair:
        document = {"snapshot": name, "path": str(pair.create_snapshot(name)), "version": pair.versions()}
    emit(document, as_json, lambda d: click.echo(f"snapshot {name}: {_versions(d['version'])}"))


@snapshot.command("list")
@_index
@json_option
def list_snapshots(index: Path, as_json: bool) -> None:
    """Snapshots of an index."""
    from duality.index.stores import open_index

    with open_index(index) as pair:
        document = {"snapshots": [{"name": name, **facts} for name, facts in pair.snapshots().items()]}
    emit(document, as_json, _show_snapshots)


@snapshot.command()
@_index
@_name
@json_option
def restore(index: Path, name: str, as_json: bool) -> None:
    """Make a copy of a snapshot the current index; `duality index rollback` leads back."""
    from duality.index.stores import open_index

    with open_index(index, "w") as pair:
        pair.restore_snapshot(name)
        document = {"restored": name, **_sides(pair)}
    emit(document, as_json, _show_sides)


def _sides(pair: Any) -> dict[str, Any]:
    sides = {name: pair.side(name).stats() for name in ("users", "items")}
    return {"sides": sides, "generation": pair.generation, "model": pair.model}


def _show_sides(document: dict[str, Any]) -> None:
    for name, side in document["sides"].items():
        size = f"{side['count']:,} records of {side['dim']} values, {side['bytes'] / 1e6:.1f} MB"
        click.echo(f"{name}: {size}, {side['kind']}, version {side['version']}, {side['deleted']:,} deleted")


def _show_snapshots(document: dict[str, Any]) -> None:
    for snapshot in document["snapshots"]:
        click.echo(f"{snapshot['name']}: {_versions(snapshot['version'])}, built {snapshot['created']}")
    if not document["snapshots"]:
        click.echo("no snapshots")


def _show_tuned(document: dict[str, Any]) -> None:
    for row in document["table"]:
        setting = ", ".join(f"{name} {value}" for name, value in row["setting"].items())
        click.echo(f"recall {row['recall']:.4f}  {row['queries_per_second']:>12,.0f} queries/s  {setting}")
    click.echo(f"kept: {document['setting']}, recall {document['recall']:.4f}")


def _versions(versions: dict[str, int]) -> str:
    return ", ".join(f"{side} at version {version}" for side, version in versions.items())
