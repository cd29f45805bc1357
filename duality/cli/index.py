"""`duality index`: build, change, search and check the vector indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import csv_ids, emit, json_option
from duality.runtime import home

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_index = click.argument("index", type=_FOLDER)
_side = click.option("--side", type=click.Choice(["users", "items"]), required=True, help="Which side.")
_from = click.option("--from", "source", type=_FILE, help="Parquet file with ids in a column `id`.")
_ids = click.option("--ids", help="Ids as one line of CSV.")
_where = click.option("--where", help="Filter, such as \"country = 'DE' and age >= 18\".")


@click.group()
def index() -> None:
    """Build, change, search and check the vector indexes."""


@index.command()
@click.option("--model", type=_FOLDER, help="Model to embed with [models/default].")
@click.option("--data", type=_FOLDER, help="Dataset [the one the model was trained on].")
@click.option("--users", type=_FILE, help="User vectors, instead of a model.")
@click.option("--items", type=_FILE, help="Item vectors, instead of a model.")
@click.option("--spec", help="exact, ivf, hnsw or a TOML file [exact].")
@click.option("--out", type=_FOLDER, help="Folder to make [indexes/default].")
@json_option
def build(
    model: Path | None,
    data: Path | None,
    users: Path | None,
    items: Path | None,
    spec: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Build both sides, from a model or from files of vectors."""
    target = out or home() / "indexes" / "default"
    if (users is None) != (items is None):
        raise click.UsageError("--users and --items go together")
    if users and items:
        if model or data:
            raise click.UsageError("give either --users and --items, or --model and --data")
        from duality.index.pair import build as build_pair

        document = build_pair(target, users, items, spec=spec)
    else:
        from duality.workflows.build import build_index

        document = build_index(model or home() / "models" / "default", target, spec, data)
    emit(document, as_json, lambda d: click.echo(f"{target}: {_numbers(d)}"))


@index.command()
@_index
@_side
@click.option("--from", "source", type=_FILE, required=True, help="Parquet or CSV: id, vector, attributes.")
@json_option
def upsert(index: Path, side: str, source: Path, as_json: bool) -> None:
    """Insert or replace records; durable when the command returns."""
    from duality.index.pair import Pair
    from duality.index.transfer import ids_of, read_embeddings, vectors_of

    table = read_embeddings(source)
    with Pair.open(index, "w") as pair:
        chosen = pair.side(side)
        number = chosen.upsert(ids_of(table, str(source)), vectors_of(table, str(source)), table)
        document = {"upserted": number, "version": chosen.version}
    emit(document, as_json, lambda d: click.echo(_numbers(d)))


@index.command()
@_index
@_side
@_ids
@_from
@_where
@json_option
def delete(
    index: Path, side: str, ids: str | None, source: Path | None, where: str | None, as_json: bool
) -> None:
    """Remove records by id, by file or by filter; durable when the command returns."""
    if sum(option is not None for option in (ids, source, where)) != 1:
        raise click.UsageError("give one of --ids, --from, --where")
    from duality.index.pair import Pair

    asked = _asked(ids, source) if where is None else None
    with Pair.open(index, "w") as pair:
        chosen = pair.side(side)
        deleted, missing = chosen.delete(asked, where)
        document = {"deleted": deleted, "missing": missing, "version": chosen.version}
    emit(document, as_json, lambda d: click.echo(_numbers({**d, "missing": len(missing)})))


@index.command()
@_index
@_side
@_ids
@_from
@json_option
def get(index: Path, side: str, ids: str | None, source: Path | None, as_json: bool) -> None:
    """Read records by id."""
    if (ids is None) == (source is None):
        raise click.UsageError("give one of --ids, --from")
    from duality.index.pair import Pair

    with Pair.open(index) as pair:
        chosen = pair.side(side)
        records, missing = chosen.get(_asked(ids, source))
        document = {"records": _plain(records), "missing": missing, "version": chosen.version}
    emit(document, as_json, _show_records)


@index.command("list")
@_index
@_side
@_where
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Records at most.")
@click.option("--after", help="Continue after this id.")
@json_option
def list_records(
    index: Path, side: str, where: str | None, limit: int, after: str | None, as_json: bool
) -> None:
    """List records in the order of their ids."""
    from duality.index.pair import Pair

    with Pair.open(index) as pair:
        chosen = pair.side(side)
        records = chosen.list(where, limit, after)
        document = {"records": _plain(records), "missing": [], "version": chosen.version}
    emit(document, as_json, _show_records)


@index.command()
@_index
@_side
@click.option("--from", "source", type=_FILE, required=True, help="Parquet file: id, vector.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Results per query.")
@_where
@click.option("--exact", is_flag=True, help="Score every record instead of using the structure.")
@json_option
def search(
    index: Path, side: str, source: Path, k: int, where: str | None, exact: bool, as_json: bool
) -> None:
    """Nearest records to the vectors of a file."""
    from duality.errors import DataError
    from duality.index.pair import Pair
    from duality.index.transfer import ids_of, read_embeddings, vectors_of

    table = read_embeddings(source)
    vectors = vectors_of(table, str(source))
    if vectors is None:
        raise DataError("no column vector", file=str(source))
    with Pair.open(index) as pair:
        ids, scores = pair.side(side).search(vectors, k, where, exact=exact)
    results = [
        {"id": query, "neighbours": [{"id": id, "score": score} for id, score in zip(*row) if id is not None]}
        for query, *row in zip(ids_of(table), ids, scores.tolist())
    ]
    emit({"results": results}, as_json, _show_results)


@index.command()
@_index
@json_option
def stats(index: Path, as_json: bool) -> None:
    """Sizes and versions of both sides."""
    from duality.index.pair import SIDES, Pair

    with Pair.open(index) as pair:
        document: dict[str, Any] = {"sides": {name: pair.side(name).stats() for name in SIDES}}
    emit(document, as_json, _show_sides)


@index.command()
@_index
@json_option
@click.pass_context
def verify(context: click.Context, index: Path, as_json: bool) -> None:
    """Compare everything stored with its checksums; exit code 1 on damage."""
    from duality.index.pair import verify_folder

    problems = verify_folder(index)
    document = {"ok": not problems, "problems": problems}
    emit(document, as_json, lambda d: click.echo("\n".join(problems) or f"{index}: everything is as written"))
    if problems:
        context.exit(1)


@index.command()
@_index
@json_option
def compact(index: Path, as_json: bool) -> None:
    """Give back the space of removed records and rebuild the search structures."""
    from duality.index.pair import SIDES, Pair

    with Pair.open(index, "w") as pair:
        for name in SIDES:
            pair.side(name).compact()
        document: dict[str, Any] = {"sides": {name: pair.side(name).stats() for name in SIDES}}
    emit(document, as_json, _show_sides)


@index.command()
@_index
@_side
@click.option("--out", type=_FILE, required=True, help="Parquet file to write.")
@json_option
def export(index: Path, side: str, out: Path, as_json: bool) -> None:
    """Write one side as Parquet: id, vector, attributes."""
    from duality.index.pair import Pair

    with Pair.open(index) as pair:
        chosen = pair.side(side)
        document = {"exported": chosen.export(out), "version": chosen.version, "out": str(out)}
    emit(document, as_json, lambda d: click.echo(f"{out}: {d['exported']:,} records"))


def _asked(ids: str | None, source: Path | None) -> list[str]:
    from duality.index.transfer import ids_of, read_embeddings

    return csv_ids(ids or "") if source is None else ids_of(read_embeddings(source), str(source))


def _plain(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**record, "vector": record["vector"].tolist()} for record in records]


def _numbers(document: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in document.items())


def _show_records(document: dict[str, Any]) -> None:
    for record in document["records"]:
        held = ", ".join(f"{name}={value}" for name, value in record["attributes"].items())
        click.echo(f"{record['id']}  {held}".rstrip())
    if document["missing"]:
        click.echo("missing: " + ", ".join(document["missing"]), err=True)


def _show_results(document: dict[str, Any]) -> None:
    for result in document["results"]:
        found = "  ".join(f"{one['id']} {one['score']:.4f}" for one in result["neighbours"])
        click.echo(f"{result['id']}: {found}")


def _show_sides(document: dict[str, Any]) -> None:
    for name, side in document["sides"].items():
        size = f"{side['count']:,} records of {side['dim']} values, {side['bytes'] / 1e6:.1f} MB"
        click.echo(f"{name}: {size}, {side['kind']}, version {side['version']}, {side['deleted']:,} deleted")
