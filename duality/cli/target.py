"""`duality target`: audiences for campaigns, in one go or in steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from duality.cli.common import bytes_of, emit, json_option
from duality.runtime import home

if TYPE_CHECKING:
    from duality.targeting.run import Work

Command = Callable[..., Any]


def _inputs(required: bool) -> Callable[[Command], Command]:
    def with_options(command: Command) -> Command:
        path = click.Path(path_type=Path)
        command = click.option(
            "--campaigns", type=path, required=required, help="Campaign file (TOML, [[campaign]])."
        )(command)
        return click.option("--index", "index_path", type=path, help="Index to take vectors from.")(command)

    return with_options


def _step(command: Command) -> Command:
    """Options of all steps."""
    command = click.option(
        "--depth",
        type=click.IntRange(min=1),
        default=2,
        help="Pairs kept per slot beyond a million pairs; the same in every step.  [2]",
    )(command)
    command = click.option(
        "--work",
        "work_path",
        type=click.Path(path_type=Path),
        required=True,
        help="Folder of the steps' results; all processes see the same.",
    )(command)
    return _inputs(required=True)(command)


@click.group(invoke_without_command=True, subcommand_metavar="[STEP]")
@_inputs(required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the audiences.")
@click.option("--report", is_flag=True, help="Also a page for people, report.html (extra `report`).")
@click.option("--dry-run", is_flag=True, help="Assign and report, write nothing.")
@click.option("--engine", default="local", help="Who scores: local processes, or ray (extra `ray`).  [local]")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Processes that score.  [one per core]"
)
@click.option("--memory-limit", default="4GB", help="Of all processes that score together.  [4GB]")
@json_option
@click.pass_context
def target(
    context: click.Context,
    index_path: Path | None,
    campaigns: Path | None,
    out: Path | None,
    report: bool,
    dry_run: bool,
    engine: str,
    workers: int,
    memory_limit: str,
    as_json: bool,
) -> None:
    """Assign users to campaigns: most slots filled first, then the largest total score.

    Exits 3 when a campaign found fewer users than it asked for (or than its quota_min); the audiences are written
    all the same. An audience smaller than min_audience exits 3 and writes nothing. The same in steps, for many
    machines: score every shard, merge, assign.
    """
    if context.invoked_subcommand is not None:
        return
    for name, value in (("--campaigns", campaigns), ("--out", out)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'.")
    from duality.targeting.outcome import check_floor, check_quotas
    from duality.targeting.run import target as run_target
    from duality.workflows.targeting import open_for_targeting
    from duality.workflows.targeting_scale import scoring_by

    path, given, folder = _index(index_path), Path(str(campaigns)), Path(str(out))
    scoring = scoring_by(
        path, given, engine=engine, workers=workers, memory=bytes_of(memory_limit, "--memory-limit")
    )
    index = open_for_targeting(path)
    page = index.page if report else None
    document = run_target(index, given, folder, dry_run=dry_run, page=page, scoring=scoring)
    emit(document, as_json, show_audiences)
    check_floor(document)
    check_quotas(document)


@target.command()
@_step
@click.option("--shard", required=True, help="Which of how many parts of the users: 1/8 to 8/8.")
@json_option
def score(
    index_path: Path | None, campaigns: Path, work_path: Path, depth: int, shard: str, as_json: bool
) -> None:
    """Score one shard; nothing is done twice."""
    from duality.targeting.run import score as score_one
    from duality.targeting.shards import Part

    part = Part.parse(shard)
    done = score_one(_begun(index_path, campaigns, work_path, depth), part)
    said = "scored" if done else "was scored before"
    emit({"shard": shard, "done_before": not done}, as_json, lambda _: click.echo(f"shard {shard} {said}"))


@target.command()
@_step
@click.option("--shards", type=click.IntRange(min=1), required=True, help="How many there are.")
@json_option
def merge(
    index_path: Path | None, campaigns: Path, work_path: Path, depth: int, shards: int, as_json: bool
) -> None:
    """Join the shards."""
    from duality.targeting.run import merged

    market = merged(_begun(index_path, campaigns, work_path, depth), shards)
    document = {"pairs": len(market.pairs.user), "exact": market.whole, "asked": int(market.asked.sum())}
    emit(document, as_json, _render_market)


@target.command()
@_step
@click.option("--shards", type=click.IntRange(min=1), required=True, help="How many there are.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the audiences.")
@click.option("--report", is_flag=True, help="Also a page for people, report.html (extra `report`).")
@json_option
def assign(
    index_path: Path | None,
    campaigns: Path,
    work_path: Path,
    depth: int,
    shards: int,
    out: Path,
    report: bool,
    as_json: bool,
) -> None:
    """Assign what was merged, and write the audiences."""
    from duality.targeting.outcome import check_floor, check_quotas, document_of, write_run
    from duality.targeting.run import finish
    from duality.workflows.targeting import open_for_targeting

    outcome = finish(_begun(index_path, campaigns, work_path, depth), shards)
    document = document_of(outcome)
    check_floor(document)
    page = open_for_targeting(_index(index_path)).page if report else None
    write_run(out, outcome, document, page)
    emit({**document, "out": str(out)}, as_json, show_audiences)
    if outcome.shallow:
        said = f"too few pairs to give all slots well: take all steps with --depth {4 * depth}"
        click.echo(said, err=True)
    check_quotas(document)


@target.command()
@click.option("--audience", type=click.Path(path_type=Path), required=True, help="Folder of a run.")
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path),
    required=True,
    help="Who came to what: `user`, and `campaign`, `value` if told apart.",
)
@json_option
def measure(audience: Path, outcomes: Path, as_json: bool) -> None:
    """What contact changed, where users were held out at random (`holdout`)."""
    from duality.targeting.uplift import measure as measured

    emit(measured(audience, outcomes), as_json, _show_effects)


def _show_effects(document: dict[str, Any]) -> None:
    click.echo(
        f"outcomes of users in an audience: {document['outcomes']:,}; of others: {document['others']:,}"
    )
    for campaign in document["campaigns"]:
        sizes = f"{campaign['id']}: {campaign['treated']:,} treated, {campaign['holdout']:,} held out"
        if not campaign["identifiable"]:
            click.echo(f"{sizes}: {campaign['why']}")
            continue
        change, qini, more = campaign["effect"], campaign["qini"], campaign["incremental"]
        click.echo(
            f"{sizes}: {campaign['rate_treated']:.4g} a user against {campaign['rate_holdout']:.4g}, "
            f"{change['value']:+.4g} [{change['low']:+.4g}, {change['high']:+.4g}], "
            f"{more['value']:+,.1f} in all; Qini {qini['value']:+.4g} [{qini['low']:+.4g}, {qini['high']:+.4g}]"
        )


def _begun(index_path: Path | None, campaigns: Path, work_path: Path, depth: int) -> Work:
    from duality.targeting.run import begin
    from duality.workflows.targeting import open_for_targeting

    return begin(open_for_targeting(_index(index_path)), campaigns, work_path, depth)


def _index(given: Path | None) -> Path:
    return given or home() / "indexes" / "default"


def _render_market(document: dict[str, Any]) -> None:
    how = "an exact assignment" if document["exact"] else "an assignment by prices"
    click.echo(f"{document['pairs']:,} pairs for {document['asked']:,} slots: enough for {how}")


def show_audiences(document: dict[str, Any]) -> None:
    """Print what a run chose."""
    for campaign in document["campaigns"]:
        found = campaign["index_recall"]
        mean = "-" if campaign["mean_score"] is None else f"{campaign['mean_score']:.4f}"
        click.echo(
            f"{campaign['id']}: {campaign['size']:,} of {campaign['asked']:,} users "
            f"({campaign['eligible']:,} eligible), mean score {mean}"
            + (f", index recall {found['value']:.3f} of {found['looked_for']:,}" if found else "")
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
