"""`duality index update`: new events into the histories and the indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.cli.index import _FOLDER, index
from duality.runtime import home


@index.command()
@click.argument("index", type=_FOLDER, required=False)
@click.option(
    "--events", type=click.Path(path_type=Path), required=True, help="Any SOURCE of `duality data import`."
)
@click.option("--data", type=_FOLDER, help="Dataset to append to [the one the index recorded].")
@click.option(
    "--users", type=click.Path(path_type=Path), help="Attributes of new users [those beside the events]."
)
@click.option(
    "--items", type=click.Path(path_type=Path), help="Attributes of new items [those beside the events]."
)
@click.option("--user-column", help="Column of user ids [that of the import, or a usual name].")
@click.option("--item-column", help="Column of item ids [likewise].")
@click.option("--time-column", help="Column of times [likewise].")
@click.option("--order-column", help="Column that orders each user's new events.")
@click.option("--event-column", help="Keep only rows where this column is true or positive.")
@click.option("--where", help='Keep only rows that meet this filter [that of the import; "" keeps all].')
@json_option
def update(index: Path | None, events: Path, data: Path | None, as_json: bool, **options: Any) -> None:
    """Append events, then encode and store the users and items they touch; no retraining.

    INDEX is indexes/default when it is not given. Durable when the command returns; after an
    interruption run it again, no event is added twice.
    """
    from duality.workflows.index import Index

    with Index.open(index or home() / "indexes" / "default", "w") as opened:
        document = opened.update(events, data=data, **options)
    emit(document, as_json, _show)


def _show(document: dict[str, Any]) -> None:
    left = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in document["dropped"].items() if count]
    click.echo(f"events   {document['events']:,} added" + (f" ({', '.join(left)})" if left else ""))
    click.echo(f"users    {document['users']:,} encoded again, {document['new_users']:,} of them new")
    items = f"{document['generated']:,} moved to a generated vector, {document['kept_trained']:,} kept theirs"
    if document["mixed"]:
        items += f" ({document['mixed']:,} with a new share of a generated one)"
    click.echo(f"items    {document['items']:,} touched, {document['new_items']:,} of them new: {items}")
    versions = ", ".join(f"{side} {version}" for side, version in document["version"].items())
    click.echo(f"version  {versions}  ({document['seconds']} s)")
