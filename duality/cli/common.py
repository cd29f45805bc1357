"""What every command shares: the `--json` option and how an answer is printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

from duality.errors import InputError

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout."
)


def emit(document: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Print an answer: as one JSON document, or for people through `render`."""
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, default=str))
    else:
        render(document)


def csv_ids(text: str) -> list[str]:
    """Read ids given as one line of CSV; quotes protect commas."""
    import csv

    return [cell.strip() for row in csv.reader([text]) for cell in row if cell.strip()]


def show_plan(document: dict[str, Any]) -> None:
    """Print how the index was searched, if the answer says, beside the answer."""
    if "plan" in document:
        click.echo(f"plan: {document['plan']['strategy']}: {document['plan']['reason']}", err=True)


def bytes_of(text: str, option: str) -> int:
    """A size such as 4GB or 512MiB, in bytes.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"{option} {text}: give a size, such as 4GB or 512MiB")
    power = "kmgt".find(found[2].lower()) + 1 if found[2] else 0
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
