"""`duality demo`."""

from __future__ import annotations

from pathlib import Path

import click

from duality.cli.common import emit, json_option
from duality.runtime import home, say


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder for what it writes [demo].")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting.")
@json_option
def demo(out: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """The whole story on the bundled sample: import, train, index, ask, evaluate, target."""
    from duality.workflows.demo import demo as run

    document = run(out or home() / "demo", say if as_json else click.echo, overrides)
    emit(document, as_json, lambda _: None)
