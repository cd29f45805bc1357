"""`duality query` and `duality recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import csv_ids, emit, json_option, show_plan
from duality.runtime import home

index_option = click.option(
    "--index", type=click.Path(path_type=Path), help="Index folder [indexes/default]."
)
data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Dataset folder [the recorded one]."
)
k_option = click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
where_option = click.option("--where", metavar="EXPR", help='Filter on attributes, e.g. "year >= 1990".')

_NUMBERS = {"probability": "p", "draw_probability": "draw", "inclusion_probability": "incl"}


@click.command()
@index_option
@data_option
@click.option("--user", help="Items for this user.")
@click.option("--item", help="Users for this item.")
@click.option("--history", metavar="A,B,C", help="Items for somebody with this history, oldest first.")
@click.option("--audience", metavar="U,V,W", help="Users for something that had these users, oldest first.")
@k_option
@where_option
@click.option("--include-seen", is_flag=True, help="Keep what the query has already met.")
@click.option("--at", metavar="TIME", help="Request time, for encoders that use it.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="Sample instead of ranking.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling.")
@click.option("--exact", is_flag=True, help="With --temperature: draw among all, not among the best.")
@click.option("--probabilities", is_flag=True, help="Also the probability by the model's score calibration.")
@click.option("--explain", is_flag=True, help="Say how the index was searched, and why.")
@json_option
def query(
    index: Path | None,
    data: Path | None,
    user: str | None,
    item: str | None,
    history: str | None,
    audience: str | None,
    k: int,
    where: str | None,
    include_seen: bool,
    at: str | None,
    temperature: float | None,
    seed: int,
    exact: bool,
    probabilities: bool,
    explain: bool,
    as_json: bool,
) -> None:
    """Items for a user, or users for an item."""
    from duality.workflows.query import answer

    document = answer(
        index or home() / "indexes/default",
        data=data,
        user=user,
        item=item,
        history=None if history is None else csv_ids(history),
        audience=None if audience is None else csv_ids(audience),
        k=k,
        where=where,
        include_seen=include_seen,
        at=at,
        temperature=temperature,
        seed=seed,
        explain=explain,
        probabilities=probabilities,
        exact=exact,
    )
    emit(document, as_json, show_answer)


def show_answer(document: dict[str, Any]) -> None:
    """Print one line per result: rank, score, probabilities if any, id and the attributes that are set."""
    show_plan(document)
    if not document["results"]:
        click.echo("nothing matches")
    for row in document["results"]:
        shown = ", ".join(_shown(value) for value in row["attributes"].values() if value not in (None, False))
        numbers = "".join(f"  {name} {row[key]:.4f}" for key, name in _NUMBERS.items() if key in row)
        click.echo(f"{row['rank']:4}  {row['score']:8.3f}{numbers}  {row['id']:12}  {shown}"[:140].rstrip())


def _shown(value: Any) -> str:
    return "|".join(str(part) for part in value) if isinstance(value, list) else str(value)


@click.command()
@index_option
@data_option
@click.option("--users", "users_from", metavar="all|FILE", help="Items for these users.")
@click.option("--items", "items_from", metavar="all|FILE", help="Users for these items.")
@k_option
@where_option
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="Sample instead of ranking.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling.")
@click.option("--probabilities", is_flag=True, help="Also the probability by the model's score calibration.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
@json_option
def recommend(
    index: Path | None,
    data: Path | None,
    users_from: str | None,
    items_from: str | None,
    k: int,
    where: str | None,
    temperature: float | None,
    seed: int,
    probabilities: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Batch answers for a whole side: query, rank, id, score."""
    if (users_from is None) == (items_from is None):
        raise click.UsageError("give --users or --items (all, or a file of ids)")
    from duality.workflows.index import Index
    from duality.workflows.recommend import recommend as run

    side, who = ("users", users_from) if users_from is not None else ("items", items_from or "")
    with Index.open(index or home() / "indexes/default", data=data) as opened:
        document = run(
            opened,
            side,
            who,
            out,
            k=k,
            where=where,
            temperature=temperature,
            seed=seed,
            probabilities=probabilities,
        )
    emit(
        document,
        as_json,
        lambda d: click.echo(f"{out}: {d['rows']:,} rows for {d['queries']:,} {side} in {d['seconds']} s"),
    )
