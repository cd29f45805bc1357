"""`duality target`: audiences for campaigns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home


@click.command()
@click.option("--index", "index_path", type=click.Path(path_type=Path), help="Index to take vectors from.")
@click.option(
    "--campaigns", type=click.Path(path_type=Path), required=True, help="Campaign file (TOML, [[campaign]])."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the audiences.")
@click.option("--report", is_flag=True, help="Also a page for people, report.html (extra `report`).")
@click.option("--dry-run", is_flag=True, help="Assign and report, write nothing.")
@json_option
def target(
    index_path: Path | None, campaigns: Path, out: Path, report: bool, dry_run: bool, as_json: bool
) -> None:
    """Assign users to campaigns: most slots filled first, then the largest total score.

    Exits 3 when a campaign found fewer users than it asked for (or than its quota_min); the audiences are written
    all the same. An audience smaller than min_audience exits 3 and writes nothing.
    """
    from duality.targeting.run import check_floor, check_quotas
    from duality.targeting.run import target as run_target
    from duality.workflows.targeting import open_for_targeting

    index = open_for_targeting(index_path or home() / "indexes" / "default")
    document = run_target(index, campaigns, out, dry_run=dry_run, page=index.page if report else None)
    emit(document, as_json, _render)
    check_floor(document)
    check_quotas(document)


def _render(document: dict[str, Any]) -> None:
    for campaign in document["campaigns"]:
        mean = "-" if campaign["mean_score"] is None else f"{campaign['mean_score']:.4f}"
        click.echo(
            f"{campaign['id']}: {campaign['size']:,} of {campaign['asked']:,} users "
            f"({campaign['eligible']:,} eligible), mean score {mean}"
        )
        click.echo(
            "  " + " > ".join(f"{step['left']:,} {step['step']}" for step in _said(campaign["funnel"]))
        )
    click.echo(
        f"objective {document['objective']:.4f}, bound {document['bound']:.4f}, gap {document['gap']:.2g} "
        f"(greedy: {document['greedy_objective']:.4f}, {document['greedy_unfilled']:,} unfilled)"
    )
    if document["out"]:
        click.echo(f"wrote {document['out']}: audience.parquet, excluded.parquet, reach.json, overlap.csv")


def _said(funnel: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps after the first name what they took away."""
    return [funnel[0], *({**step, "step": f"without {step['step']}"} for step in funnel[1:])]
