"""Tables of `duality.evaluation.comparison.compare` as lines, and Holm's correction over several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duality.evaluation.comparison import judge

Table = dict[str, Any]


def judged_together(tables: Sequence[Table], family: str = "comparisons") -> None:
    """Correct the comparisons of all tables as one family, in place."""
    rows = judge([row for table in tables for row in table[family]])
    for table in tables:
        count = len(table[family])
        table[family], rows = rows[:count], rows[count:]


def print_table(title: str, models: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Means with intervals, then differences with theirs and a verdict each."""
    print(f"\n{title}")
    for name, model in models.items():
        cells = (
            f"{metric} {cell['value']:.4f} [{cell['low']:.4f}, {cell['high']:.4f}]"
            for metric, cell in model["metrics"].items()
        )
        print(f"  {name:30s} " + "  ".join(cells))
    for row in comparisons:
        print(
            f"  {row['first']} - {row['second']}, {row['metric']}: {row['difference']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}], Holm {row['p_holm']:.4f}: {row['verdict']}"
        )
