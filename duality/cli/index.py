"""`duality index`: build, change, search and check the vector indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import csv_ids, emit, json_option, show_plan
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
@click.option("--spec", help="exact, ivf, hnsw, ivfpq, sq8, rabitq or a TOML file [exact].")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where structures are built."
)
@click.option(
    "--store", metavar="URL", help="Keep the vectors in a Milvus server, such as http://host:19530."
)
@click.option("--out", type=_FOLDER, help="Folder to make [indexes/default].")
@json_option
def build(
    model: Path | None,
    data: Path | None,
    users: Path | None,
    items: Path | None,
    spec: str | None,
    device: str,
    store: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Build both sides, from a model or from files of vectors; the index there serves until it is done."""
    target = out or home() / "indexes" / "default"
    if (users is None) != (items is None):
        raise click.UsageError("--users and --items go together")
    if users and items:
        if model or data:
            raise click.UsageError("give either --users and --items, or --model and --data")
        from duality.index.stores import build as build_pair

        document = build_pair(target, users, items, spec=spec, device=_gpu(device), store=store)
    else:
        from duality.workflows.build import build_index

        document = build_index(
            model or home() / "models" / "default", target, spec, data, device=_gpu(device), store=store
        )
    emit(document, as_json, lambda d: click.echo(f"{target}: {_numbers(d)}"))


@index.command()
@_index
@_side
@click.option("--from", "source", type=_FILE, required=True, help="Parquet or CSV: id, vector, attributes.")
@json_option
def upsert(index: Path, side: str, source: Path, as_json: bool) -> None:
    """Insert or replace records; durable when the command returns."""
    from duality.index.stores import open_index
    from duality.index.transfer import ids_of, read_embeddings, recorded_model, vectors_of

    table = read_embeddings(source)
    ids, vectors = ids_of(table, str(source)), vectors_of(table, str(source))
    with open_index(index, "w") as pair:
        chosen = pair.side(side)
        number = chosen.upsert(ids, vectors, table, model=recorded_model(table.schema))
        document = {"upserted": number, "version": chosen.version}
    emit(document, as_json, lambda d: click.echo(_numbers(d)))


@index.command()
@_index
@_side
@_ids
@_from
@_where
@click.option("--erase", is_flag=True, help="Leave no byte of them in any file, snapshots included.")
@json_option
def delete(
    index: Path,
    side: str,
    ids: str | None,
    source: Path | None,
    where: str | None,
    erase: bool,
    as_json: bool,
) -> None:
    """Remove records by id, by file or by filter; durable when the command returns."""
    if sum(option is not None for option in (ids, source, where)) != 1:
        raise click.UsageError("give one of --ids, --from, --where")
    from duality.index.stores import open_index

    asked = _asked(ids, source) if where is None else None
    with open_index(index, "w") as pair:
        chosen = pair.side(side)
        deleted, missing = chosen.delete(asked, where, erase=erase)
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
    from duality.index.stores import open_index

    with open_index(index) as pair:
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
    from duality.index.stores import open_index

    with open_index(index) as pair:
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
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="cuda scores every record there."
)
@click.option("--explain", is_flag=True, help="Say how the search is done, and why.")
@json_option
def search(
    index: Path,
    side: str,
    source: Path,
    k: int,
    where: str | None,
    exact: bool,
    device: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Nearest records to the vectors of a file."""
    from duality.errors import DataError
    from duality.index.stores import open_index
    from duality.index.transfer import ids_of, read_embeddings, recorded_model, vectors_of

    table = read_embeddings(source)
    vectors = vectors_of(table, str(source))
    if vectors is None:
        raise DataError("no column vector", file=str(source))
    with open_index(index) as pair:
        chosen = pair.side(side)
        model = recorded_model(table.schema)
        ids, scores = chosen.search(vectors, k, where, exact=exact, model=model, device=_gpu(device))
        plan = chosen.plan(k, where, exact).as_dict() if explain else None
    results = [
        {"id": query, "neighbours": [{"id": id, "score": score} for id, score in zip(*row) if id is not None]}
        for query, *row in zip(ids_of(table), ids, scores.tolist())
    ]
    document: dict[str, Any] = {"results": results}
    if plan:
        document["plan"] = plan
    emit(document, as_json, _show_results)


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


def _gpu(device: str) -> str | None:
    return None if device == "cpu" else device


def _show_results(document: dict[str, Any]) -> None:
    show_plan(document)
    for result in document["results"]:
        found = "  ".join(f"{one['id']} {one['score']:.4f}" for one in result["neighbours"])
        click.echo(f"{result['id']}: {found}")


# The commands that look after an index register themselves with the group.
import duality.cli.index_update  # noqa: E402
import duality.cli.index_upkeep  # noqa: E402, F401
