"""What updates gain over a frozen index, how near they come to training anew, and what each costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from duality.evaluation.comparison import compare
from study.measuring import METRICS
from study.printing import judged_together, print_table

UPDATED = ("daily updates", "hourly updates")
OTHERS = ("frozen", "daily retraining")


def judge_all(folder: Path) -> None:
    """Print every table of F/values, and write F/judged.json; seeds are averaged per query."""
    archives = [dict(np.load(path)) for path in sorted((folder / "values").glob("*.npz"))]
    tables = [table for name in _pools(archives[0]) for table in _tables(name, archives)]
    judged_together(tables)
    for table in tables:
        title = f"{table['pool']}, {table['queries']}: {table['number']:,} queries"
        print_table(title, table["models"], table["comparisons"])
    costs = [json.loads(path.read_text()) for path in sorted((folder / "values").glob("*.json"))]
    for number, cost in enumerate(costs):
        print(f"seed {number}: seconds {cost}")
    (folder / "judged.json").write_text(json.dumps({"tables": tables, "seconds": costs}, indent=1))


def _pools(archive: dict[str, np.ndarray]) -> list[str]:
    """`direction/pool` of every table."""
    names = [name.rsplit("/", 1)[0] for name in archive if name.endswith(f"/{OTHERS[0]}")]
    return sorted(set(names))


def _tables(name: str, archives: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Of all queries, and of those whose user and item were there when the first model was trained."""
    direction = name.split("/")[0]
    clusters, old = archives[0][f"{direction}/cluster"], archives[0][f"{direction}/old"]
    values = {
        way: np.stack([archive[f"{name}/{way}"] for archive in archives]) for way in (*UPDATED, *OTHERS)
    }
    tables = []
    for label, kept in (("all", np.ones(len(old), bool)), ("known at the start", old)):
        report = compare(
            {way: table[:, kept] for way, table in values.items()}, clusters[kept], METRICS, references=OTHERS
        )
        tables.append({"pool": name, "queries": label, "number": int(kept.sum()), **report})
    return tables
