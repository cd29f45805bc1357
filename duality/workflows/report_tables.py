"""The tables of a report, as text cells: every number of the document and of its details.

A table is a title, column heads and rows; a cell is a number, its interval and a verdict. What makes
HTML of it (report_page.py) knows nothing of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duality.workflows import report_words as words

Part = Mapping[str, Any]

SYSTEM = "this system"


@dataclass(frozen=True)
class Cell:
    """A number as text, its interval below, and what it shows: "better", "worse", ... or nothing."""

    text: str
    interval: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first head is that of the row names."""

    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def metric_table(title: str, tables: Part) -> Table:
    """A row per metric, a column per scorer, the system first."""
    columns = {SYSTEM: tables["metrics"], **tables["baselines"]}
    rows = [
        (words.metric_title(name), [_value(metrics[name], name) for metrics in columns.values()])
        for name in tables["metrics"]
    ]
    return Table(title, ["metric", *columns], rows)


def difference_table(title: str, tables: Part) -> Table | None:
    """The system minus each baseline; None without baselines."""
    compared = tables["comparisons"]
    if not compared:
        return None
    rows = [
        (words.metric_title(name), [_difference(table[name], name) for table in compared.values()])
        for name in tables["metrics"]
    ]
    return Table(title, ["metric", *(f"minus {name}" for name in compared)], rows)


def segment_tables(direction: str, details: Part) -> list[Table]:
    """A table per segmentation: counts, metrics, and the difference to the strongest baseline."""
    source, strongest = words.ENDS[direction][0], details["pools"][-1]["strongest"]
    tables = []
    for division in details["segments"]:
        names = list(division["rows"][0]["metrics"])
        heads = [division["words"], "queries", f"{source}s", *(words.metric_title(name) for name in names)]
        if strongest is not None:
            heads += [f"{words.metric_title(name)} minus {strongest}" for name in names]
        rows = [(row["label"], _segment_cells(row)) for row in division["rows"]]
        tables.append(Table(f"By {division['title']}", heads, rows))
    return tables


def _segment_cells(row: Part) -> list[Cell]:
    return [
        Cell(f"{row['queries']:,}"),
        Cell(f"{row['sources']:,}"),
        *(_value(entry, name) for name, entry in row["metrics"].items()),
        *(_difference(entry, name) for name, entry in row.get("differences", {}).items()),
    ]


def events_tables(part: Part) -> list[Table]:
    """Cold protocols: the headline metrics for each number of given events, a table per pool."""
    steps = part.get("by_events", {})
    tables = []
    for title, key in (("all candidates", None), ("time-matched candidates", words.MATCHED)):
        found = {n: step if key is None else step.get(key) for n, step in steps.items()}
        kept = {n: step for n, step in found.items() if step is not None}
        tables += [
            _events_table(f"{words.metric_title(name)} by given events, {title}", kept, name)
            for name in headlines(next(iter(kept.values()), None))
        ]
    return tables


def headlines(tables: Part | None) -> list[str]:
    """The two metrics that a short table shows: NDCG and the deepest recall."""
    if tables is None:
        return []
    recalls = [name for name in tables["metrics"] if name.startswith("recall@")]
    found = [words.headline(tables["metrics"], "ndcg"), recalls[-1] if recalls else None]
    return [name for name in found if name is not None]


def _events_table(title: str, steps: Mapping[str, Part], name: str) -> Table:
    rows = [
        (
            str(n),
            [_value(step["metrics"][name], name)]
            + [_value(t[name], name) for t in step["baselines"].values()],
        )
        for n, step in steps.items()
    ]
    baselines = next(iter(steps.values()))["baselines"]
    return Table(title, ["given events", SYSTEM, *baselines], rows)


def exposure_table(direction: str, details: Part) -> Table | None:
    """A row per measure with how to read it, a column per scorer; None when nothing was listed."""
    found = {SYSTEM if name == details["system"] else name: m for name, m in details["exposure"].items()}
    if not found:
        return None
    rows = [
        (title, [*(Cell(_exposure_text(key, m[key])) for m in found.values()), Cell(reading)])
        for key, title, reading in words.exposure_words(direction)
    ]
    first = next(iter(found.values()))
    title = f"The first {first['k']} of {first['lists']:,} lists"
    return Table(title, ["measure", *found, "how to read it"], rows)


def _exposure_text(key: str, value: float | None) -> str:
    if value is None:
        return "not defined"
    if key == "popularity_lift":
        return f"{'−' if value < 0 else '+'}{words.percent(abs(value))}"
    return (
        words.percent(value)
        if key in ("coverage", "top_1%_share", "largest_share")
        else f"{value:.3f}".replace("-", "−")
    )


def calibration_table(calibration: Part) -> Table | None:
    """The bins of the reliability diagram; None where they were not stored."""
    bins = calibration.get("reliability")
    if not bins:
        return None
    rows = [
        (
            words.percent(row["predicted"]),
            [
                Cell(
                    words.percent(row["observed"]),
                    f"[{words.percent(row['low'])}, {words.percent(row['high'])}]",
                ),
                Cell(f"{row['rows']:,.0f}"),
            ],
        )
        for row in bins
    ]
    return Table(
        "Reliability", ["predicted probability (mean of a bin)", "observed share", "impressions"], rows
    )


def _value(entry: Part, name: str) -> Cell:
    return Cell(words.number(entry["value"], name), words.interval(entry, name))


def _difference(entry: Part, name: str) -> Cell:
    text = words.signed(entry["difference"], name)
    return Cell(text, words.interval(entry, name, difference=True), words.verdict(entry))


def calibration_error(entry: Part) -> str:
    """The expected calibration error in a sentence."""
    bounds = (
        ""
        if entry["low"] is None
        else f" (95% interval {words.percent(entry['low'])} to {words.percent(entry['high'])})"
    )
    return (
        f"On average the probability is {words.percent(entry['value'])} away from what happened{bounds}; "
        f"chance alone would leave {words.percent(entry['floor'])}. Lower is better."
    )
