"""`duality calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Model folder [models/default].")
@click.option(
    "--impressions",
    type=click.Path(path_type=Path),
    required=True,
    help="What was shown: user, item, time, and a label that is positive where it was taken up.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [the model's own].")
@click.option("--label", metavar="C", help="Column of the label [label, is_click, click, ...].")
@click.option("--user-column", metavar="C")
@click.option("--item-column", metavar="C")
@click.option("--time-column", metavar="C")
@click.option("--where", metavar="EXPR", help="Use only these impressions.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Part of the impressions, by time, to fit on; the rest measures.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def calibrate(
    model: Path | None,
    impressions: Path,
    data: Path | None,
    label: str | None,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    where: str | None,
    share: float,
    seed: int,
    as_json: bool,
) -> None:
    """Turn scores into probabilities that compare across users, by logged impressions."""
    from duality.workflows.calibrate import calibrate as fit

    document = fit(
        model or home() / "models/default",
        impressions,
        data=data,
        columns={"user": user_column, "item": item_column, "time": time_column, "label": label},
        where=where,
        share=share,
        seed=seed,
    )
    emit(document, as_json, show_calibration)


def show_calibration(document: dict[str, Any]) -> None:
    """Print what was used, the error before and after, and the reliability table."""
    for name, title in (("fitted_on", "fitted on"), ("measured_on", "measured on")):
        part = document[name]
        click.echo(
            f"{title} {part['rows']:,} impressions of {part['users']:,} users, {part['positives']:,} positive, "
            f"{part['from'][:19]} to {part['to'][:19]}"
        )
    for reason, count in document["dropped"].items():
        click.echo(f"left out: {count:,} × {reason}")
    measured = {
        "softmax score": document["before"],
        **document["compared"],
        document["chosen"]: document["after"],
    }
    for title, part in measured.items():
        error = part["ece"]
        click.echo(
            f"{title:14} ece {error['value']:.4f} [{_bound(error['low'])}, {_bound(error['high'])}], by chance "
            f"{error['floor']:.4f}; log loss {part['log_loss']:.4f}; error by history {part['history_error']:.4f}"
        )
    click.echo("events so far  impressions  predicted  by score alone  observed")
    for row in document["by_history"]:
        click.echo(
            f"{row['events_from']:11}+  {row['rows']:11,}  {row['predicted']:9.4f}  "
            f"{row['predicted_by_score_alone']:14.4f}  {row['observed']:8.4f}"
        )
    click.echo("predicted  observed  95%               impressions")
    for row in document["reliability"]:
        click.echo(
            f"{row['predicted']:9.4f}  {row['observed']:8.4f}  [{row['low']:.4f}, {row['high']:.4f}]  "
            f"{row['rows']:10,.0f}"
        )
    click.echo(f"stored in {document['out']}")


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
