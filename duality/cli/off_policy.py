"""`duality off-policy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option


@click.command("off-policy")
@click.option(
    "--log", type=click.Path(path_type=Path), required=True, help="What was shown: arm, reward, propensity."
)
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Probabilities per arm or per row of the log."
)
@click.option("--uniform", is_flag=True, help="The policy that shows every arm of the log alike.")
@click.option("--where", metavar="EXPR", help="Use only these rows of the log.")
@click.option("--arm-column", metavar="C")
@click.option("--reward-column", metavar="C")
@click.option("--propensity-column", metavar="C")
@click.option("--context-column", metavar="C")
@click.option("--draw-column", metavar="C", help="Rows with the same value were shown together.")
@click.option("--cluster-column", metavar="C", help="Rows with the same value are not independent.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def off_policy(
    log: Path,
    policy: Path | None,
    uniform: bool,
    where: str | None,
    arm_column: str | None,
    reward_column: str | None,
    propensity_column: str | None,
    context_column: str | None,
    draw_column: str | None,
    cluster_column: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """What another policy would have earned, from a log with propensities."""
    from duality.workflows.off_policy import off_policy as estimate

    document = estimate(
        log,
        policy=policy,
        uniform=uniform,
        where=where,
        columns={
            "arm": arm_column,
            "reward": reward_column,
            "propensity": propensity_column,
            "context": context_column,
        },
        draw_column=draw_column,
        cluster_column=cluster_column,
        seed=seed,
    )
    emit(document, as_json, show_estimates)


def show_estimates(document: dict[str, Any]) -> None:
    """Print the sample, then each estimate with its interval, or that there is none."""
    click.echo(
        f"policy {document['policy']}, {document['arms']} arms; {document['draws']:,} draws, "
        f"{document['rewards']:,} rows with a reward, effective sample size {document['ess']:,.1f}"
    )
    click.echo(f"{'mean weight':14} {_shown(document['mean_weight'])}  (1 where the log covers the policy)")
    click.echo(f"{'logged policy':14} {_shown(document['logged'])}")
    if document["estimates"] is None:
        click.echo(f"not estimable: {document['not_estimable']}")
        return
    for name, estimate in document["estimates"].items():
        click.echo(f"{name:14} {_shown(estimate)}")


def _shown(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return "-" if estimate["value"] is None else f"{estimate['value']:.5f}"
    return f"{estimate['value']:.5f}  [{estimate['low']:.5f}, {estimate['high']:.5f}]"
