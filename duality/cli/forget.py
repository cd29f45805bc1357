"""`duality forget`: take users out of everything, and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.errors import DualityError
from duality.runtime import home

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--user", "users", multiple=True, required=True, help="Who; give it several times for several.")
@click.option("--index", type=_FOLDER, help="Index; its dataset and model are taken too [indexes/default].")
@click.option("--data", type=_FOLDER, help="Dataset [the one the index recorded].")
@click.option("--model", "models", type=_FOLDER, multiple=True, help="More models trained on the dataset.")
@click.option("--may-return", is_flag=True, help="Let later updates bring them back.")
@click.option("--check", is_flag=True, help="Only look for traces; exits 1 if there are any.")
@json_option
def forget(
    users: tuple[str, ...],
    index: Path | None,
    data: Path | None,
    models: tuple[Path, ...],
    may_return: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Take users out of a dataset, its models and an index, older versions and snapshots included.

    Durable when the command returns; after an interruption run it again. Sources and exported files are not
    touched.
    """
    from duality.workflows.forget import forget as take_out
    from duality.workflows.forget import look_for

    default = home() / "indexes" / "default"
    if index is None and data is None and not models and (default / "index.json").exists():
        index = default
    where: dict[str, Any] = {"index": index, "data": data, "models": models}
    if not check:
        emit(take_out(users, **where, may_return=may_return), as_json, _show)
        return
    search = look_for(users, **where)
    document = {"ok": not search.traces, "traces": search.traces}
    emit({**document, "searched": {"files": search.files, "bytes": search.bytes}}, as_json, _show_check)
    if search.traces:
        raise DualityError(f"{len(search.traces)} traces are left: run `duality forget` without --check")


def _show(document: dict[str, Any]) -> None:
    click.echo(f"users    {document['users']:,}, {document['events']:,} events of theirs taken out")
    for model in document["models"]:
        states = (
            f", states of an unfinished training removed ({', '.join(model['states'])})"
            if model["states"]
            else ""
        )
        click.echo(
            f"model    {model['path']}: {model['users']:,} known by id{states}; what its weights learned stays"
        )
    if document["index"]:
        index = document["index"]
        click.echo(
            f"index    {index['path']}: out of {index['copies']:,} copies, {index['items']:,} items stored anew"
        )
    _show_searched(document)


def _show_check(document: dict[str, Any]) -> None:
    for trace in document["traces"]:
        click.echo(trace)
    _show_searched(document)


def _show_searched(document: dict[str, Any]) -> None:
    searched, found = document["searched"], len(document.get("traces", ()))
    click.echo(
        f"searched {searched['files']:,} files, {searched['bytes'] / 1e6:,.1f} MB: {found or 'no'} "
        f"{'trace' if found == 1 else 'traces'}"
    )
