"""What a run found, as a document and as files.

Writes: `audience.parquet` and `excluded.parquet` (audience.py), `reach.json` and `overlap.csv` (rounded, reach.py),
        `assignment.json` (totals, bound, gap, per campaign), `datalabel.json` (where the data come from), `report.html`
        (for people, if asked for), `manifest.json` (what went in, checksums of what came out).
        No dates of the run: same input, same bytes.

Shapes: C campaigns, U users.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import atomic_folder, checksum, write_json
from duality.errors import GateError
from duality.targeting.assignment import Assignment, greedy, total_value
from duality.targeting.audience import HOLDOUT, arms, write_audience, write_excluded
from duality.targeting.eligibility import ELIGIBLE, funnel
from duality.targeting.merging import Market
from duality.targeting.near import recall
from duality.targeting.plan import Plan
from duality.targeting.reach import overlaps, reach, rounded
from duality.targeting.shards import Shards
from duality.targeting.spec import CampaignFile

AUDIENCE, EXCLUDED, REACH, OVERLAP = "audience.parquet", "excluded.parquet", "reach.json", "overlap.csv"
ASSIGNMENT, LABEL, MANIFEST = "assignment.json", "datalabel.json", "manifest.json"
REPORT = "report.html"
FORMAT = 3
UNSURE = 1e-3  # a gap that is worth more work


@dataclass(frozen=True, eq=False)
class Outcome:
    """A run that has chosen.

    Attributes:
        plan: users, campaigns, and scores of the sample.
        market: who could be had.
        assignment: who was chosen.
        shards: who could not.
        inputs: name to checksum of everything that went in.
    """

    plan: Plan
    market: Market
    assignment: Assignment
    shards: Shards
    inputs: dict[str, str]

    @property
    def file(self) -> CampaignFile:
        return self.plan.file

    def users(self, campaign: int) -> np.ndarray:
        """Rows int64 of a campaign's audience, best first."""
        found: np.ndarray = self.market.pairs.user[self.assignment.pairs[campaign]]
        return found

    @property
    def filled(self) -> list[int]:
        """Users found by each campaign."""
        return [len(pairs) for pairs in self.assignment.pairs]

    @property
    def shallow(self) -> bool:
        """Whether a campaign of which only the best pairs were kept has empty slots, or would go deeper and nobody
        knows how much that would bring."""
        cut = self.market.pairs.cuts > -np.inf
        empty = self.market.asked > self.filled
        held = (self.assignment.prices <= self.market.pairs.cuts) & (self.assignment.gap > UNSURE)
        return bool(np.any(cut & (empty | held)))


Page = Callable[[Outcome, dict[str, Any]], str]


def check_quotas(document: dict[str, Any]) -> None:
    """Raise GateError naming the campaigns that found fewer users than they need: `quota_min`, or all they asked for."""
    short = [
        f"'{c['id']}' {c['size']} of {c['needed']}" for c in document["campaigns"] if c["size"] < c["needed"]
    ]
    if short:
        raise GateError(f"not enough eligible users: {', '.join(short)}")


def check_floor(document: dict[str, Any]) -> None:
    """Raise GateError naming the campaigns whose audience is smaller than any may be (`min_audience`)."""
    small = [
        f"'{c['id']}' {c['size']}, and {c['floor']} is the least"
        for c in document["campaigns"]
        if c["size"] < c["floor"]
    ]
    if small:
        raise GateError(
            f"audiences so small could point at people, nothing was written: {', '.join(small)} (min_audience)"
        )


def document_of(outcome: Outcome) -> dict[str, Any]:
    """What `duality target` answers, and what `assignment.json` holds."""
    market, assignment = outcome.market, outcome.assignment
    by_greed = greedy(market.pairs, market.asked.clip(min=1), outcome.plan.standing.capacity)
    return {
        "campaigns": [_campaign(outcome, row) for row in range(len(outcome.file.campaigns))],
        "objective": assignment.objective,
        "bound": assignment.bound,
        "gap": assignment.gap,
        "method": assignment.method,
        "greedy_objective": total_value(market.pairs, by_greed),
        "greedy_unfilled": int(market.asked.sum()) - sum(map(len, by_greed)),
        "cap": outcome.file.run.cap,
        "scores": outcome.file.run.scores,
        "scoring": outcome.file.run.scoring,
    }


def _campaign(outcome: Outcome, row: int) -> dict[str, Any]:
    campaign, market = outcome.file.campaigns[row], outcome.market
    mine, asked = outcome.assignment.pairs[row], int(market.asked[row])
    worth, price = market.pairs.value[mine], outcome.assignment.prices[row]
    near, held = outcome.plan.near, 0
    found = None if near is None else recall(outcome.plan, row, near)
    if campaign.holdout is not None:
        held = arms(campaign, outcome.plan.people.names(outcome.users(row))).count(HOLDOUT)
    return {
        "id": campaign.id,
        "size": len(mine),
        "asked": asked,
        "unfilled": asked - len(mine),
        "floor": outcome.file.floor(campaign),
        "needed": asked if campaign.quota_min is None else campaign.quota_min,
        "eligible": int(market.counts[row, ELIGIBLE]),
        "funnel": [{"step": step, "left": left} for step, left in funnel(market.counts[row])],
        "mean_score": float(worth.mean()) if len(mine) else None,
        "lowest_score": float(worth.min()) if len(mine) else None,
        "price": float(price) if len(mine) and np.isfinite(price) else None,
        "holdout": held,
        "expanded": int(market.expanded[mine].sum()),
        "index_recall": None if found is None else {"value": found[0], "looked_for": found[1]},
    }


def write_run(out: Path, outcome: Outcome, document: dict[str, Any], page: Page | None) -> None:
    """Write a run's folder, whole or not at all.

    Raises:
        InputError: `out` is somebody else's.
    """
    file = outcome.file
    with atomic_folder(out, marker=ASSIGNMENT) as folder:
        write_audience(folder / AUDIENCE, outcome.plan, outcome.market, outcome.assignment)
        write_excluded(folder / EXCLUDED, outcome.plan, outcome.market, outcome.shards)
        write_json(folder / REACH, reach(outcome.plan, outcome.market, outcome.filled))
        _write_overlaps(folder / OVERLAP, overlaps(file, outcome.market, outcome.assignment))
        write_json(folder / ASSIGNMENT, document)
        about = outcome.plan.index.about
        write_json(
            folder / LABEL, {**about, "users": rounded(outcome.plan.people.count), "method": _method(file)}
        )
        if page is not None:
            (folder / REPORT).write_text(page(outcome, document), encoding="utf-8")
        sums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
        write_json(folder / MANIFEST, {"format": FORMAT, **outcome.inputs, "checksums": sums})


def _method(file: CampaignFile) -> dict[str, str]:
    """How each campaign's users were ranked."""
    unit = {
        "log-probability": "log p(item | user)",
        "log-intensity": f"log p(item | user) + log of events a day ({file.run.rate_days:g} days fading)",
        "probability": "calibrated probability",
    }[file.run.scores]
    unit = f"{unit}{', of the users that the index finds' if file.run.scoring == 'index' else ''}"
    words = {
        "items": f"{unit}, mean over the items",
        "items_where": f"{unit}, mean over the items that match",
        "vector": "inner product with the vector, population mean taken off",
        "seed_users": "inner product with the mean of the seed users, population mean taken off",
    }
    return {
        campaign.id: next(text for name, text in words.items() if getattr(campaign, name))
        for campaign in file.campaigns
    }


def _write_overlaps(path: Path, rows: list[dict[str, Any]]) -> None:
    names = ["first", "second", "wanted_by_both", "jaccard", "given_to_both"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
