"""`duality run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@json_option
def run(recipe: Path, overrides: tuple[str, ...], device: str, as_json: bool) -> None:
    """Import, train, index and evaluate as RECIPE says, and choose audiences if it has a [target]; with an [update],
    bring the index up to date instead of training. What is up to date is skipped."""
    from duality.workflows.run import run as run_stages

    emit(run_stages(recipe, overrides, device=device), as_json, _show)


def _show(document: dict[str, Any]) -> None:
    from duality.cli.evaluate import show_report
    from duality.cli.target import show_audiences

    for name in ("import", "train", "index", "update"):
        if name in document:
            facts = {k: v for k, v in document[name].items() if isinstance(v, int | float | str)}
            click.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if "evaluate" in document:
        show_report({k: v for k, v in document["evaluate"].items() if isinstance(v, dict)})
    if "target" in document:
        show_audiences(document["target"])
