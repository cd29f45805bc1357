"""Do audiences come? Campaigns for items before a moment, and who took these items after it.

    python benchmarks/backtest.py --source S --until SECONDS --time-column T --folder F [--recipe R] [--group COLUMN]
        [--event-column E] [--unit 1|1000] [--campaigns 100] [--least 20]

The log up to the moment is imported, trained on and indexed; `duality target` ranks all eligible users for every
campaign: an item, or all items that share a value of COLUMN, of those that had most new takers afterwards. Asked are users
known before the moment who had not taken the campaign's items. Ours ranks by log-intensity, and
by the log-probability of the next event alone; the same users are ranked at random, by activity, and by user-kNN (cosine with
the takers so far). Means over campaigns, with paired 95% bootstrap intervals over them. Then, campaign by campaign, how many
takers the log-intensities expect, beside how many there were. What contact would have changed cannot be told:
nobody in these logs was held out at random.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.parquet as pq
from scipy import sparse
from scipy.stats import spearmanr

from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.runtime import say
from duality.targeting.run import target
from duality.workflows.build import build_index
from duality.workflows.recipe import load_recipe
from duality.workflows.targeting import open_for_targeting
from duality.workflows.train import train

SHARE = 0.01  # of the eligible: the audience whose precision and recall are told
OURS = {"log-intensity": "duality", "log-probability": "duality, next event only"}
CONTROLS = ("random", "most active", "user-kNN")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--until", type=int, required=True, help="in the log's own unit")
    parser.add_argument("--time-column", required=True)
    parser.add_argument("--event-column")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--group")
    parser.add_argument("--campaigns", type=int, default=100)
    parser.add_argument("--least", type=int, default=20, help="new takers of a campaign")
    given = parser.parse_args()
    before, whole = _prepared(given)
    items, takers = _campaigns(before, whole, given.group, given.campaigns, given.least)
    say(f"{len(items)} campaigns, {sum(map(len, takers.values())):,} new takers")
    rankings, expected = _ranked(before, given.folder, items, _days(before, whole))
    values = {
        name: np.array([_measured(ranking[c], takers[c]) for c in items])
        for name, ranking in rankings.items()
    }
    _print(values)
    _print_calibration(
        expected, {c: np.array([u in takers[c] for u in rankings["duality"][c]]) for c in items}
    )
    print("what contact changed: not identifiable, nobody was held out at random")


def _days(before: Dataset, whole: Dataset) -> float:
    """From the newest event that the model may know to the end of the log."""
    first, last = (int(np.asarray(data.event_time).max()) for data in (before, whole))
    return (last - first) / 86_400e6


def _prepared(given: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The dataset before the moment, trained on and indexed, and the whole one."""
    folder, options = given.folder, {"time_column": given.time_column, "event_column": given.event_column}
    if not (folder / "whole/dataset.json").exists():
        import_events(given.source, folder / "whole", **options)
        import_events(
            given.source, folder / "before", where=f"{given.time_column} < {given.until}", **options
        )
    if not (folder / "index/index.json").exists():
        train(folder / "before", folder / "model", load_recipe(given.recipe, []))
        build_index(folder / "model", folder / "index", "exact", folder / "before")
    return Dataset.open(folder / "before"), Dataset.open(folder / "whole")


def _campaigns(
    before: Dataset, whole: Dataset, group: str | None, most: int, least: int
) -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """Items of each campaign, and the users who took one of them later, were known before and had taken none."""
    ids = whole.item_ids.ids(np.arange(whole.num_items))
    column = ids if group is None else [str(value) for value in whole.items()[group].to_pylist()]
    known = set(before.item_ids.ids(np.arange(before.num_items)))
    people = set(before.user_ids.ids(np.arange(before.num_users)))
    items: dict[str, list[str]] = {}
    for item, value in zip(ids, column, strict=True):
        if item in known:
            items.setdefault(value, []).append(item)
    of_item = dict(zip(ids, column, strict=True))
    took = {name: _pairs(data, of_item) for name, data in (("before", before), ("whole", whole))}
    new = {
        value: (took["whole"].get(value, set()) & people) - took["before"].get(value, set())
        for value in items
    }
    chosen = sorted((value for value in items if len(new[value]) >= least), key=lambda v: (-len(new[v]), v))
    return {value: items[value] for value in chosen[:most]}, {value: new[value] for value in chosen[:most]}


def _pairs(data: Dataset, of_item: dict[str, str]) -> dict[str, set[str]]:
    users, items = (
        data.user_ids.ids(np.asarray(data.event_user)),
        data.item_ids.ids(np.asarray(data.event_item)),
    )
    found: dict[str, set[str]] = {}
    for user, item in zip(users, items, strict=True):
        found.setdefault(of_item[item], set()).add(user)
    return found


def _ranked(
    before: Dataset, folder: Path, items: dict[str, list[str]], days: float
) -> tuple[dict[str, dict[str, list[str]]], dict[str, np.ndarray]]:
    """For every way of ranking and every campaign, all eligible users, best first; and how likely each of ours is
    expected to take the item within so many days, of campaigns for one item."""
    took = _pairs(
        before, {item: value for value, mine in items.items() for item in mine} | _others(before, items)
    )
    lines = []
    for number, (value, mine) in enumerate(items.items()):
        (folder / f"took-{number}.csv").write_text("user\n" + "\n".join(sorted(took.get(value, {"-"}))))
        text = f"[[campaign]]\nid = {json.dumps(value)}\nitems = {json.dumps(mine)}\nquota_max = 1000000000\n"
        lines.append(f'{text}quota_min = 1\nsuppress = ["took-{number}.csv"]\n')
    ours, expected = {}, {}
    for scores, name in OURS.items():
        run = f'[run]\nmin_audience = 1\ncap = {len(items)}\nscores = "{scores}"\n'
        (folder / "campaigns.toml").write_text("\n".join([run, *lines]))
        target(open_for_targeting(folder / "index"), folder / "campaigns.toml", folder / "audience")
        ours[name], worth = _audiences(folder / "audience", list(items))
        if scores == "log-intensity":
            alone = [value for value in items if len(items[value]) == 1]
            expected = {value: -np.expm1(-days * np.exp(np.array(worth[value]))) for value in alone}
    return {**ours, **_controls(before, items, took, ours["duality"])}, expected


def _audiences(folder: Path, campaigns: list[str]) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """Users and scores by campaign, best first."""
    table = pq.read_table(folder / "audience.parquet", columns=["campaign", "user", "score"]).to_pydict()
    found: dict[str, list[str]] = {value: [] for value in campaigns}
    worth: dict[str, list[float]] = {value: [] for value in campaigns}
    for campaign, user, score in zip(*table.values(), strict=True):
        found[campaign].append(user)
        worth[campaign].append(score)
    return found, worth


def _others(before: Dataset, items: dict[str, list[str]]) -> dict[str, str]:
    mine = {item for some in items.values() for item in some}
    return {i: "" for i in before.item_ids.ids(np.arange(before.num_items)) if i not in mine}


def _controls(
    before: Dataset, items: dict[str, list[str]], took: dict[str, set[str]], ours: dict[str, list[str]]
) -> dict[str, dict[str, list[str]]]:
    names = before.user_ids.ids(np.arange(before.num_users))
    row = {name: number for number, name in enumerate(names)}
    user, item = np.asarray(before.event_user), np.asarray(before.event_item)
    matrix = sparse.csr_matrix((np.ones(len(user)), (user, item)), (before.num_users, before.num_items))
    matrix.data[:] = 1
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel()).clip(min=1)
    unit = sparse.diags(1 / norms) @ matrix
    activity, random = np.diff(before.user_indptr), np.random.default_rng(0)
    found: dict[str, dict[str, list[str]]] = {name: {} for name in CONTROLS}
    for value in items:
        rows = np.array([row[name] for name in sorted(ours[value])])
        seeds = [row[name] for name in took.get(value, set()) if name in row]
        near = np.asarray(unit[rows] @ unit[seeds].sum(0).T).ravel() if seeds else np.zeros(len(rows))
        scores = {"random": random.random(len(rows)), "most active": activity[rows], "user-kNN": near}
        for name, score in scores.items():
            order = np.lexsort((random.random(len(rows)), -score))
            found[name][value] = [names[number] for number in rows[order]]
    return found


def _measured(ranking: list[str], takers: set[str]) -> list[float]:
    """Precision and recall at SHARE, AUC, and lift of each tenth."""
    hit = np.array([user in takers for user in ranking])
    number, base = max(1, round(SHARE * len(hit))), hit.mean()
    worst = np.flatnonzero(~hit)
    auc = 1 - np.searchsorted(worst, np.flatnonzero(hit)).mean() / max(len(worst), 1)
    tenths = [part.mean() / base for part in np.array_split(hit, 10)]
    return [hit[:number].mean(), hit[:number].sum() / hit.sum(), auc, *tenths]


def _print(values: dict[str, np.ndarray]) -> None:
    random, ours = np.random.default_rng(0), values["duality"]
    draws = random.integers(0, len(ours), (2000, len(ours)))
    print("| | precision at 1% | recall at 1% | AUC | lift of the best tenth | second | last |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in values.items():
        mean = rows.mean(0)
        cells = [f"{mean[n]:.4f}".lstrip("0") for n in range(3)] + [f"{mean[n]:.2f}" for n in (3, 4, 12)]
        print(f"| {name} | {' | '.join(cells)} |")
    for name in [name for name in values if name != "duality"]:
        difference = (ours - values[name])[:, :4]
        low, high = np.percentile(difference[draws].mean(1), (2.5, 97.5), axis=0)
        words = zip(("precision", "recall", "AUC", "lift"), difference.mean(0), low, high, strict=True)
        print(f"duality - {name}: " + ", ".join(f"{w} {d:+.4f} [{a:+.4f}, {b:+.4f}]" for w, d, a, b in words))


def _print_calibration(expected: dict[str, np.ndarray], took: dict[str, np.ndarray]) -> None:
    """Takers expected and found: per campaign, and by tenths of all its users together, likeliest first."""
    if not expected:
        print("no campaign for a single item: nothing to calibrate")
        return
    sums = np.array([[expected[c].sum(), took[c].sum()] for c in expected])
    log_ratio = np.log(sums[:, 1] / sums[:, 0])
    draws = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.exp(np.percentile(log_ratio[draws].mean(1), (2.5, 97.5)))
    print(
        f"{len(sums)} campaigns for one item: {sums[:, 0].sum():,.0f} takers expected, {sums[:, 1].sum():,.0f} found"
    )
    print(
        f"found / expected, geometric mean {np.exp(log_ratio.mean()):.2f} [{low:.2f}, {high:.2f}], "
        f"middle half {np.exp(np.quantile(log_ratio, 0.25)):.2f} to {np.exp(np.quantile(log_ratio, 0.75)):.2f}, "
        f"rank correlation {spearmanr(*sums.T).statistic:.2f}"
    )
    for campaign, (mean, found) in zip(expected, sums, strict=True):
        print(f"  {campaign}: {mean:,.1f} expected, {found:,.0f} found, {found / mean:.2f}")
    chances, hits = (np.concatenate([part[c] for c in expected]) for part in (expected, took))
    for part in np.array_split(np.argsort(-chances, kind="stable"), 10):
        print(f"  tenth: {chances[part].sum():,.1f} expected, {hits[part].sum():,.0f} found")


if __name__ == "__main__":
    main()
