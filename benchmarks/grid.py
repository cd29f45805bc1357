"""Variants of one recipe, with seeds, trained and compared: one table.

    python benchmarks/grid.py GRID.toml --data D --folder F [--seeds 0,1,2] [--only NAME,NAME] [--no-compare]

GRID.toml names the variant that the others are compared with, the settings of all, and of each:

    against = "rotary"
    settings = ["train.epochs=20"]
    [variants]
    rotary = []
    "no positions" = ["model.user_encoder.positions=none"]

Models are F/NAME-SEED; what is there is left alone, so that it can be stopped and started again, and seeds added. The
comparison is that of `duality compare` on the test part: paired, 95% intervals, Holm over the table.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from pathlib import Path
from typing import Any

from duality.evaluation.queries import USER_TO_ITEM
from duality.runtime import say
from duality.workflows.compare import compare
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

METRICS = ("ndcg@10", "recall@100")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", help="variants to train [all]")
    parser.add_argument("--direction", default=USER_TO_ITEM)
    parser.add_argument("--no-compare", action="store_true")
    given = parser.parse_args()
    grid = tomllib.loads(given.grid.read_text(encoding="utf-8"))
    variants: dict[str, list[str]] = grid["variants"]
    for seed in given.seeds.split(","):
        for name in given.only.split(",") if given.only else variants:
            _train(given.data, given.folder / f"{name}-{seed}", [*grid["settings"], *variants[name]], seed)
    if not given.no_compare:
        report = compared(given.data, given.folder, variants, grid["against"], given.direction)
        (given.folder / "compared.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        for direction, part in report.items():
            print(f"\n{direction}, {part['queries']:,} queries, {part['candidates']}\n")
            print(table(part, grid["against"], given.folder))


def _train(data: Path, out: Path, settings: list[str], seed: str) -> None:
    if not (out / "config.json").exists():
        say(f"training {out.name}")
        started = time.process_time()
        train(data, out, load_recipe(None, [*settings, f"train.seed={seed}"]))
        (out / "seconds.json").write_text(json.dumps(time.process_time() - started), encoding="utf-8")


def compared(
    data: Path, folder: Path, variants: dict[str, list[str]], against: str, direction: str
) -> dict[str, Any]:
    """`duality compare` of all variants that are trained, with the seeds they have."""
    seeds = {name: sorted(folder.glob(f"{name}-[0-9]*/config.json")) for name in variants}
    given = [f"{name}={','.join(str(s.parent) for s in found)}" for name, found in seeds.items() if found]
    return compare(given, data=data, direction=direction, metrics=METRICS, against=against)


def table(part: dict[str, Any], against: str, folder: Path) -> str:
    """One line a variant, as Markdown: values, differences, validation and processor seconds of a training."""
    lines = [
        f"| | seeds | {' | '.join(METRICS)} | difference in {METRICS[0]} | p (Holm) | validation | CPU seconds |",
        "|---|---|" + "---|" * (len(METRICS) + 4),
    ]
    rows = {
        frozenset(
            (row["first"], row["second"]),
        ): row
        for row in part["comparisons"]
        if row["metric"] == METRICS[0]
    }
    for name, model in part["models"].items():
        values = " | ".join(f"{model['metrics'][metric]['value']:.4f}" for metric in METRICS)
        row = rows.get(frozenset((name, against)))
        lines.append(
            f"| {name} | {model['seeds']} | {values} | {_difference(row, name)} | {_validation(folder, name)} |"
        )
    return "\n".join(lines)


def _difference(row: dict[str, Any] | None, name: str) -> str:
    if row is None:
        return "– | –"
    sign = 1 if row["first"] == name else -1
    # + 0.0, or nothing would be written as -0.
    low, high = sorted((sign * row["low"] + 0.0, sign * row["high"] + 0.0))
    return f"{sign * row['difference'] + 0.0:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.3f}"


def _validation(folder: Path, name: str) -> str:
    found = [path.parent for path in sorted(folder.glob(f"{name}-[0-9]*/config.json"))]
    metrics = [json.loads((path / "metrics.json").read_text(encoding="utf-8")) for path in found]
    values = [document["validation"]["user_to_item.ndcg@10"] for document in metrics]
    seconds = [json.loads((path / "seconds.json").read_text(encoding="utf-8")) for path in found]
    return f"{sum(values) / len(values):.4f} | {sum(seconds) / len(seconds):.0f}"


if __name__ == "__main__":
    main()
