"""Which control is best on validation, and what the joint model gains over it on test.

Holm's correction runs over all comparisons with controls, and over all ablations apart.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.evaluation.comparison import compare
from study.measuring import AS_TRAINED, ENCODER, METRICS
from study.printing import judged_together, print_table
from study.training import ABLATIONS

JOINT = ("joint", "joint: preference", f"joint: {ENCODER}")
# Controls to which popularity and activity of our kind were added: compared with, but no control by themselves.
OURS_ADDED = ("one-sided", "simple")
Values = dict[str, np.ndarray]  # by scorer: float [S, Q, M]


def judge_all(folder: Path) -> None:
    """Print every table of F/values, and write F/judged.json."""
    tables: list[dict[str, Any]] = []
    for direction in ("user-to-item", "item-to-user"):
        parts = {part: _read(folder, part, direction) for part in ("validation", "test")}
        pools = sorted({key.split("/")[0] for key in parts["test"][1]})
        tables += [_table(direction, pool, parts) for pool in pools]
    for family in ("comparisons", "ablations"):
        judged_together(tables, family)
    for table in tables:
        chosen = f"chosen on validation: {table['ours']}; controls: {table['best_control']}"
        title = f"{table['direction']}, {table['pool']}; {chosen}"
        print_table(title, table["models"], [*table["comparisons"], *table["ablations"]])
    (folder / "judged.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")


def _read(folder: Path, part: str, direction: str) -> tuple[np.ndarray, Values]:
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    clusters = np.zeros(0)
    for path in sorted((folder / "values").glob(f"{part}.{direction}.*.npz")):
        with np.load(path) as archive:
            clusters = archive["clusters"]
            for name in archive.files:
                if name != "clusters":
                    found[name].append(archive[name])
    return clusters, {name: np.stack(seeds) for name, seeds in found.items()}


def _table(direction: str, pool: str, parts: dict[str, tuple[np.ndarray, Values]]) -> dict[str, Any]:
    (_, validation), (clusters, test) = parts["validation"], parts["test"]
    names = [key.split("/", 1)[1] for key in test if key.startswith(f"{pool}/")]
    chosen = [name for name in names if name.split(":")[0] not in ABLATIONS]
    means = {name: validation[f"{pool}/{name}"].mean(axis=(0, 1)) for name in chosen}
    controls = [name for name in chosen if name.split(":")[0] != "joint" and name not in OURS_ADDED]
    ours = _best([name for name in chosen if name in JOINT], means)
    best = _best(controls, means)
    asked = {name: test[f"{pool}/{name}"] for name in names}
    report = compare(asked, clusters, METRICS, references=[n for n in names if n not in ours.values()])
    rows = [_turned(row, ours[row["metric"]]) for row in report["comparisons"]]
    plain = [f"{name}: preference" for name in OURS_ADDED]
    against = {metric: (best[metric], *plain, *OURS_ADDED) for metric in METRICS}
    return {
        "direction": direction,
        "pool": pool,
        "ours": ours,
        "best_control": best,
        "validation": {name: dict(zip(METRICS, map(float, row), strict=True)) for name, row in means.items()},
        "models": report["models"],
        "comparisons": [row for row in rows if row and row["second"] in against[row["metric"]]],
        "ablations": [row for form in (AS_TRAINED, ENCODER) for row in _ablated(asked, clusters, form)],
    }


def _ablated(values: Values, clusters: np.ndarray, form: str) -> list[dict[str, Any]]:
    """The joint model against every ablation, both in one form."""
    others = [f"{name}: {form}" for name in ABLATIONS if f"{name}: {form}" in values]
    if not others:
        return []
    asked = {name: values[name] for name in (f"joint: {form}", *others)}
    report = compare(asked, clusters, METRICS, references=others)
    rows: list[dict[str, Any]] = report["comparisons"]
    return rows


def _best(names: Sequence[str], means: dict[str, np.ndarray]) -> dict[str, str]:
    """Of every metric the name that validation likes best."""
    return {metric: max(names, key=lambda name: means[name][place]) for place, metric in enumerate(METRICS)}


def _turned(row: dict[str, Any], ours: str) -> dict[str, Any] | None:
    """A comparison with ours as its first; None when ours is not in it."""
    if row["first"] == ours:
        return row
    if row["second"] != ours:
        return None
    ends = {"low": -row["high"], "high": -row["low"], "difference": -row["difference"]}
    return {**row, "first": ours, "second": row["first"], **ends}
