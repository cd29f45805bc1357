"""Which control is best on validation, and what the joint model gains over it on test."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from duality.evaluation.comparison import compare, judge
from study.measuring import METRICS

JOINT = ("joint", "joint: preference", "joint: item encoder")
ABLATIONS = ("no-cycles", "no-users-compete", "simple", "joint: shuffled")
Values = dict[str, np.ndarray]  # by scorer: float [S, Q, M]


def judge_all(folder: Path) -> None:
    """Print every table of F/values, and write F/judged.json."""
    tables: list[dict[str, Any]] = []
    for direction in ("user-to-item", "item-to-user"):
        parts = {part: _read(folder, part, direction) for part in ("validation", "test")}
        pools = sorted({key.split("/")[0] for key in parts["test"][1]})
        tables += [_table(direction, pool, parts) for pool in pools]
    rows = judge([row for table in tables for row in table["comparisons"]])
    for table in tables:
        count = len(table["comparisons"])
        table["comparisons"], rows = rows[:count], rows[count:]
        _print(table)
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
    controls = [name for name in names if name.split(":")[0] not in ("joint", *ABLATIONS)]
    means = {name: validation[f"{pool}/{name}"].mean(axis=(0, 1)) for name in names}
    best = {
        metric: max(controls, key=lambda name: means[name][place]) for place, metric in enumerate(METRICS)
    }
    asked = {name: test[f"{pool}/{name}"] for name in names}
    report = compare(asked, clusters, METRICS, references=[n for n in names if n not in JOINT])
    kept = [
        row
        for row in report["comparisons"]
        if {row["first"], row["second"]} & set(JOINT) and _asked(row, best, controls)
    ]
    return {
        "direction": direction,
        "pool": pool,
        "best_control": best,
        "validation": {name: dict(zip(METRICS, map(float, row), strict=True)) for name, row in means.items()},
        "models": report["models"],
        "comparisons": kept,
    }


def _asked(row: dict[str, Any], best: dict[str, str], controls: list[str]) -> bool:
    """Joint against the best control of the metric and the one-sided model: what the claims are about."""
    other = ({row["first"], row["second"]} - set(JOINT)) or {""}
    (name,) = other if len(other) == 1 else ("",)
    return name in controls and name in (best[row["metric"]], "one-sided", "one-sided: preference")


def _print(table: dict[str, Any]) -> None:
    print(f"\n{table['direction']}, {table['pool']}; best control on validation: {table['best_control']}")
    for name, model in table["models"].items():
        cells = (
            f"{metric} {cell['value']:.4f} [{cell['low']:.4f}, {cell['high']:.4f}]"
            for metric, cell in model["metrics"].items()
        )
        print(f"  {name:28s} " + "  ".join(cells))
    for row in table["comparisons"]:
        print(
            f"  {row['first']} - {row['second']}, {row['metric']}: {row['difference']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}], Holm {row['p_holm']:.4f}: {row['verdict']}"
        )
