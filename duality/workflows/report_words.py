"""The sentences of a report: what was measured, what came out, what a number means.

Numbers are written the same way everywhere: shares with 4 decimals, lifts with 2 and a ×.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Part = Mapping[str, Any]

BETTER, WORSE, NONE, UNKNOWN = "better", "worse", "no difference shown", "no interval"
TITLES = {"user-to-item": "Items for a user", "item-to-user": "Users for an item"}
ENDS = {"user-to-item": ("user", "item"), "item-to-user": ("item", "user")}
ARTICLES = {"user": "a user", "item": "an item"}
MATCHED = "time_matched"

GLOSSARY = {
    "NDCG@k": "1 / log2(rank + 1) when the hidden target is among the first k, else 0; the mean over queries. From 0 to 1; "
    "first place is worth 1, tenth place 0.29.",
    "Recall@k": "share of queries whose target is among the first k. From 0 to 1.",
    "MRR@k": "1 / rank when the target is among the first k, else 0; the mean over queries. From 0 to 1.",
    "AUC": "share of the other candidates that the target beats; the mean over queries. 0.5 is a random order.",
    "Lift@p%": "how many times more often than by chance the target is in the first p% of the candidates. 1 is a random order.",
    "Interval": "in square brackets: a range made so that about 95 of 100 such ranges hold the mean over all users or items "
    "like these. It says nothing about other data, or about training the model once more.",
    "No difference shown": "the interval of the difference contains 0. It does not mean that the two are equal.",
    "Many comparisons": "differences on this page are not corrected for their number: some of many would stand out by chance. "
    "The command duality compare corrects for it.",
}


@dataclass(frozen=True)
class About:
    """What a page is about: titles and counts; no number of the evaluation.

    Args:
        system: name of what was measured.
        data: name of the dataset.
        facts: further lines, term and text.
        calibration: stored facts about the model's score calibration, or None.
    """

    system: str
    data: str
    facts: Mapping[str, str]
    calibration: Mapping[str, Any] | None = None


def number(value: float, metric: str = "") -> str:
    """A metric's value as text; a negative one, and no other, with −."""
    places, unit = (2, "×") if metric.startswith("lift") else (4, "")
    # Resampling leaves a 0 at ±1e-18; + 0.0 turns what rounds to -0 into 0.
    return f"{round(value, places) + 0.0:.{places}f}{unit}".replace("-", "−")


def signed(value: float, metric: str = "") -> str:
    """A difference as text, with + or −."""
    text = number(value, metric)
    return text if text.startswith("−") else f"+{text}"


def percent(value: float) -> str:
    """A share as text."""
    return f"{100 * value:.1f}%"


def interval(entry: Part, metric: str = "", *, difference: bool = False) -> str:
    """[low, high] of a value or difference as text; empty where there is none."""
    if entry["low"] is None or entry["high"] is None:
        return ""
    write = signed if difference else number
    return f"[{write(entry['low'], metric)}, {write(entry['high'], metric)}]"


def verdict(entry: Part) -> str:
    """What an interval of a difference shows; higher is better for every metric."""
    if entry["low"] is None or entry["high"] is None:
        return UNKNOWN
    if entry["low"] > 0:
        return BETTER
    return WORSE if entry["high"] < 0 else NONE


def metric_title(name: str) -> str:
    """NDCG@10 for ndcg@10."""
    kind, at, cut = name.partition("@")
    return f"{kind.upper() if kind in ('ndcg', 'mrr', 'auc') else kind.capitalize()}{at}{cut}"


def headline(metrics: Mapping[str, Any], kind: str) -> str | None:
    """The name of the metric to speak of: kind@10, or the first cutoff there is."""
    names = [name for name in metrics if name.startswith(f"{kind}@")]
    return f"{kind}@10" if f"{kind}@10" in names else next(iter(names), None)


def claimed(part: Part) -> Part:
    """The tables that claims rest on: over time-matched users where there are any."""
    return part.get(MATCHED, part)


def outcome(direction: str, part: Part) -> list[str]:
    """What came out, in sentences."""
    tables, target = claimed(part), ENDS[direction][1]
    found = headline(tables["metrics"], "recall")
    gain = headline(tables["metrics"], "ndcg")
    sentences = [_over(part)] if tables is not part else []
    if found is not None:
        sentences.append(_found(found, tables["metrics"][found], target))
    if gain is not None:
        entry = tables["metrics"][gain]
        sentences.append(f"{metric_title(gain)} is {number(entry['value'])} {interval(entry)}".strip() + ".")
        sentences += _against(tables["comparisons"], gain)
    return sentences


def _over(part: Part) -> str:
    median = part[MATCHED]["median_candidates"]
    return (
        f"Among time-matched users ({median:,.0f} at the median), where finding who is online helps "
        "less than among all:"
    )


def _found(name: str, entry: Part, target: str) -> str:
    k = int(name.partition("@")[2])
    where = "in first place" if k == 1 else f"among the first {k}"
    text = f"The hidden {target} is {where} in {percent(entry['value'])} of the queries"
    if entry["low"] is None:
        return f"{text}."
    return f"{text} (95% interval {percent(entry['low'])} to {percent(entry['high'])})."


def _against(comparisons: Mapping[str, Any], metric: str) -> list[str]:
    if not comparisons:
        return ["No baseline was measured, so nothing says whether this is good: add --baselines."]
    starts = {BETTER: "better than", WORSE: "worse than", NONE: "no difference shown against"}
    starts[UNKNOWN] = "no interval, so nothing can be said, against"
    sentences = []
    for what, start in starts.items():
        names = [name for name, table in comparisons.items() if verdict(table[metric]) == what]
        if names:
            sentences.append(f"On {metric_title(metric)}: {start} {', '.join(names)}.")
    return sentences


def measured_facts(direction: str, part: Part) -> list[tuple[str, str]]:
    """How it was measured: (term, sentence) pairs."""
    protocol, (source, target) = part["protocol"], ENDS[direction]
    facts = [
        (
            "Question",
            f"Each query hides one event of {ARTICLES[source]} and asks for the {target}. All candidates are ranked; "
            f"the nearer the hidden {target} is to first place, the better.",
        ),
        ("Queries", f"{part['queries']:,}, of the {protocol['split']} part"),
        ("Protocol", f"{protocol['name']}: hidden is {protocol['hidden']}"),
        ("Weights", protocol.get("weights", "unknown")),
        ("Histories", protocol.get("histories", "unknown")),
        ("Candidates", protocol["candidates"]),
        *_sampling(part),
        *(("Time-matched", protocol[key]) for key in (MATCHED,) if protocol.get(key)),
        *(("Given", protocol[key]) for key in ("given",) if protocol.get(key)),
        *(("Removed", protocol[key]) for key in ("cold",) if protocol.get(key)),
        ("Ties", protocol["ties"]),
        ("Intervals", protocol["intervals"]),
        ("Dropped", _counts(protocol["dropped"], "no hidden event was dropped")),
        ("Notes", _counts(protocol["notes"], "none")),
        *((f"Window of {name}", text) for name, text in protocol.get("windows", {}).items()),
        ("Seed", str(protocol["seed"])),
    ]
    return facts


def _sampling(part: Part) -> list[tuple[str, str]]:
    if part["candidates"] == "full":
        return []
    warning = (
        "These numbers are higher than those of a full ranking, can put systems in another order, and compare only "
        "with the same sampling."
    )
    return [("Sampled", f"{part['candidates']}. {warning}")]


def _counts(counts: Mapping[str, int], none: str) -> str:
    return "; ".join(f"{count:,} × {reason}" for reason, count in counts.items()) or none


def exposure_words(direction: str) -> Sequence[tuple[str, str, str]]:
    """Measures of exposure: (key, title, how to read it)."""
    target = ENDS[direction][1]
    return (
        ("coverage", "Coverage", f"share of the {target}s that are on at least one list; higher is broader"),
        ("gini", "Gini", f"0: all {target}s are listed equally often; near 1: a few take all places"),
        (
            "top_1%_share",
            "Places of the top 1%",
            f"share of all places held by the most listed 1% of the {target}s",
        ),
        ("largest_share", "Largest share", f"share of all places held by the most listed {target}"),
        (
            "popularity_lift",
            "Popularity lift",
            f"how much more popular the listed {target}s are than those of the same histories; 0 is alike, "
            "+100% twice as popular",
        ),
        ("spearman", "Rank correlation", "of places with events so far; 1: exposure follows past popularity"),
    )
