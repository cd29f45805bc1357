"""`duality doctor`."""

from __future__ import annotations

import sys
from typing import Any

import click

from duality.cli.common import emit, json_option


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """What is installed, what works, what to install. Exits 1 when something is wrong."""
    from duality.workflows.doctor import doctor as run

    document = run()
    emit(document, as_json, _show)
    if not all(check["ok"] for check in document["checks"]):
        sys.exit(1)


def _show(document: dict[str, Any]) -> None:
    for check in document["checks"]:
        mark = "ok     " if check["ok"] else "PROBLEM"
        click.echo(f"{mark} {check['name']:14} {check['found']}")
        if check["advice"]:
            click.echo(f"        {check['advice']}")
