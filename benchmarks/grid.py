"""Variants of one recipe, with seeds, trained and compared: one table.

    python benchmarks/grid.py GRID.toml --data D --folder F [--seeds 0,1,2] [--only NAME,NAME]
        [--no-compare | --figure FILE.svg]

GRID.toml names the variant that the others are compared with, the settings of all, and of each:

    against = "rotary"
    settings = ["train.epochs=20"]
    [variants]
    rotary = []
    "no positions" = ["model.user_encoder.positions=none"]

Models are F/NAME-SEED; what is there is left alone, so that it can be stopped and started again, and seeds added. The
comparison is that of `duality compare` on the test part: paired, 95% intervals, Holm over the table; --only says what is in it.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duality.evaluation.queries import DIRECTIONS, USER_TO_ITEM
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
    parser.add_argument("--only", help="variants to train and to compare [all]")
    parser.add_argument("--direction", default=USER_TO_ITEM, choices=DIRECTIONS)
    parser.add_argument("--figure", type=Path, help="SVG of the differences")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one more setting")
    parser.add_argument("--no-compare", action="store_true")
    given = parser.parse_args()
    grid = tomllib.loads(given.grid.read_text(encoding="utf-8"))
    variants: dict[str, list[str]] = grid["variants"]
    only = given.only.split(",") if given.only else list(variants)
    for seed in given.seeds.split(","):
        for name in only:
            settings = [*grid["settings"], *variants[name], *given.set]
            _train(given.data, given.folder / f"{name}-{seed}", settings, seed)
    if given.no_compare:
        return
    names = [name for name in variants if name in (*only, grid["against"])]
    report = compared(given.data, given.folder, names, grid["against"], given.direction)
    (given.folder / "compared.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    part = report[given.direction]
    print(f"\n{given.direction}, {part['queries']:,} queries, {part['candidates']}\n")
    print(table(part, grid["against"], given.folder))
    if given.figure is not None:
        draw(part, grid["against"], given.figure)


def _train(data: Path, out: Path, settings: list[str], seed: str) -> None:
    if not (out / "config.json").exists():
        say(f"training {out.name}")
        started = time.process_time()
        train(data, out, load_recipe(None, [*settings, f"train.seed={seed}"]))
        (out / "seconds.json").write_text(json.dumps(time.process_time() - started), encoding="utf-8")


def compared(data: Path, folder: Path, names: Sequence[str], against: str, direction: str) -> dict[str, Any]:
    """`duality compare` of those of the variants that are trained, with the seeds they have."""
    seeds = {name: sorted(folder.glob(f"{name}-[0-9]*/config.json")) for name in names}
    given = [f"{name}={','.join(str(s.parent) for s in found)}" for name, found in seeds.items() if found]
    return compare(given, data=data, direction=direction, metrics=METRICS, against=against)


def table(part: dict[str, Any], against: str, folder: Path) -> str:
    """One line a variant, as Markdown: values, differences, validation and processor seconds of a training."""
    found = {(row["variant"], row["metric"]): row for row in differences(part, against)}
    heads = " | ".join(f"{metric} | difference | p (Holm)" for metric in METRICS)
    lines = [
        f"| | seeds | {heads} | validation | CPU seconds |",
        "|---|---|" + "---|" * (3 * len(METRICS) + 2),
    ]
    for name, model in part["models"].items():
        values = (
            f"{model['metrics'][metric]['value']:.4f} | {_cells(found.get((name, metric)))}"
            for metric in METRICS
        )
        lines.append(f"| {name} | {model['seeds']} | {' | '.join(values)} | {_validation(folder, name)} |")
    return "\n".join(lines)


def differences(part: dict[str, Any], against: str) -> list[dict[str, Any]]:
    """variant, metric, difference, low, high and p_holm of each variant less `against`."""
    found = []
    for row in part["comparisons"]:
        if against not in (row["first"], row["second"]):
            continue
        name, sign = (row["first"], 1) if row["second"] == against else (row["second"], -1)
        # + 0.0, or nothing would be written as -0.
        less = {end: sign * row[end] + 0.0 for end in ("difference", "low", "high")}
        low, high = sorted((less["low"], less["high"]))
        kept = {"metric": row["metric"], "p_holm": row["p_holm"]}
        found.append({"variant": name, **kept, **less, "low": low, "high": high})
    return found


def _cells(row: dict[str, Any] | None) -> str:
    if row is None:
        return "– | –"
    text = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    shows = row["low"] * row["high"] > 0 and row["p_holm"] < 0.05
    return f"{f'**{text}**' if shows else text} | {row['p_holm']:.3f}"


def draw(part: dict[str, Any], against: str, figure: Path) -> None:
    """Differences with their intervals, a line for each variant, a panel for each metric, as SVG."""
    from duality.workflows.report_drawing import COLOURS, CONFIG, SCHEMA, quantity, svg

    rows = differences(part, against)
    names = [name for name in part["models"] if name != against]
    variant = {
        "field": "variant",
        "type": "nominal",
        "sort": names,
        "title": None,
        "axis": {"labelLimit": 300},
    }
    title = f"difference from {against}"
    picture = {
        "$schema": SCHEMA,
        "config": CONFIG,
        "data": {"values": rows},
        "facet": {"column": {"field": "metric", "type": "nominal", "title": None}},
        "spec": {
            "width": 260,
            "height": {"step": 22},
            "layer": [
                {"mark": {"type": "rule", "color": "#999999"}, "encoding": {"x": {"datum": 0}}},
                {
                    "mark": {"type": "rule", "color": COLOURS[0], "strokeWidth": 2},
                    "encoding": {"x": quantity("low", title), "x2": {"field": "high"}, "y": variant},
                },
                {
                    "mark": {"type": "point", "filled": True, "opacity": 1, "size": 60, "color": COLOURS[0]},
                    "encoding": {"x": quantity("difference", title), "y": variant},
                },
            ],
        },
        "resolve": {"scale": {"x": "independent"}},
    }
    figure.write_text(svg(picture), encoding="utf-8")


def _validation(folder: Path, name: str) -> str:
    found = [path.parent for path in sorted(folder.glob(f"{name}-[0-9]*/config.json"))]
    metrics = [json.loads((path / "metrics.json").read_text(encoding="utf-8")) for path in found]
    values = [document["validation"]["user_to_item.ndcg@10"] for document in metrics]
    seconds = [json.loads((path / "seconds.json").read_text(encoding="utf-8")) for path in found]
    return f"{sum(values) / len(values):.4f} | {sum(seconds) / len(seconds):.0f}"


if __name__ == "__main__":
    main()
