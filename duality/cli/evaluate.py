"""`duality evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duality.cli.common import emit, json_option
from duality.runtime import home

SHOWN = ("ndcg@10", "recall@10", "recall@100", "auc")


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Model folder [models/default].")
@click.option("--data", type=click.Path(path_type=Path), help="Dataset folder [the model's own].")
@click.option(
    "--direction",
    type=click.Choice(["user-to-item", "item-to-user", "both"]),
    default="both",
    show_default=True,
)
@click.option(
    "--protocol",
    type=click.Choice(["leave-one-out", "temporal", "cold-item", "cold-user"]),
    help="[the one the model was trained for]",
)
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option("--candidates", default="full", show_default=True, help="full, uniform:N or popularity:N.")
@click.option("--k", "cutoffs", help="Cutoffs of the metrics [5,10,20].")
@click.option("--baselines", is_flag=True, help="Also measure baselines on the same queries.")
@click.option(
    "--run", "run_file", type=click.Path(path_type=Path), help="Measure these ranked lists instead."
)
@click.option(
    "--time-matched",
    "matched",
    type=int,
    default=500,
    show_default=True,
    help="Users in the time-matched pool of item-to-user queries.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Also write one self-contained HTML page.")
@click.option(
    "--figures", type=click.Path(path_type=Path), help="Folder for the page's figures, as SVG and PNG."
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def evaluate(
    model: Path | None,
    data: Path | None,
    direction: str,
    protocol: str | None,
    split: str,
    candidates: str,
    cutoffs: str | None,
    baselines: bool,
    run_file: Path | None,
    matched: int,
    report: Path | None,
    figures: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Honest numbers, both directions: full ranking, ties against us, 95% intervals."""
    from duality.workflows.evaluate import evaluate as measure

    chosen = model if model is not None or (run_file and data) else home() / "models/default"
    document = measure(
        chosen,
        data=data,
        direction=direction,
        protocol=protocol,
        split=split,
        candidates=candidates,
        ks=None if cutoffs is None else _cutoffs(cutoffs),
        baselines=baselines,
        run=run_file,
        seed=seed,
        matched=matched,
        report=report,
        figures=figures,
    )
    emit(document, as_json, lambda shown: show_report(shown))


def _cutoffs(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"'{text}': write whole numbers, e.g. 5,10,20", param_hint="--k")
    return tuple(int(part) for part in parts)


def show_report(report: dict[str, Any]) -> None:
    """Print the tables of each direction: the system first, then the baselines."""
    from rich.console import Console

    console = Console(width=132)
    for direction, part in report.items():
        title = f"{direction}: {part['queries']:,} queries, candidates {part['candidates']}"
        console.print(_table(title, part))
        if "time_matched" in part:
            matched = part["time_matched"]
            number = f"{matched['median_candidates']:,.0f} at the median"
            console.print(_table(f"the same queries, time-matched candidates ({number})", matched))
        if "corrected" in part:
            title = f"full ranking, estimated ({part['corrected']['estimator']}; rough below uniform:300)"
            console.print(_table(title, part["corrected"]))
        for title, rows in _by_events(part).items():
            console.print(_rows(title, rows))
        console.print(_protocol(part["protocol"]), style="dim", highlight=False)


def _table(title: str, part: dict[str, Any]) -> Any:
    return _rows(title, {"this system": part["metrics"], **part["baselines"]})


def _by_events(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A table per pool of candidates: the system and its baselines by number of events given."""
    tables: dict[str, dict[str, Any]] = {}
    for n, found in part.get("by_events", {}).items():
        for title, pool in (("all candidates", found), ("time-matched", found.get("time_matched"))):
            if pool:
                rows = tables.setdefault(f"{title}, by number of events given", {})
                rows[f"this system, {n}"] = pool["metrics"]
                rows |= {f"{name}, {n}": metrics for name, metrics in pool["baselines"].items()}
    return tables


def _rows(title: str, rows: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    names = [name for name in SHOWN if name in next(iter(rows.values()))]
    table = Table(title=title)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for who, metrics in rows.items():
        table.add_row(who, *(_cell(metrics[name]) for name in names))
    return table


def _cell(metric: dict[str, Any]) -> str:
    if metric["low"] is None:
        return f"{metric['value']:.4f}"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def _protocol(protocol: Any) -> str:
    if isinstance(protocol, dict):
        return "\n".join(f"{key}: {value}" for key, value in protocol.items() if value)
    return str(protocol)
