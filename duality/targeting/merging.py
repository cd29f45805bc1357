"""Shards joined: the pairs of every campaign, best first, as many as an assignment needs.

Writes: a folder with `merged.json` and the pairs; who was kept out stays with the shards.
Shapes: C campaigns, P pairs, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duality.artifacts import atomic_folder, read_json, write_json
from duality.targeting.eligibility import ELIGIBLE, NOT_INCLUDED
from duality.targeting.plan import Plan, depth, needed
from duality.targeting.prices import Pairs
from duality.targeting.shards import OTHERS, PAIRS, Shards

MARKER, FORMAT = "merged.json", 1


@dataclass(frozen=True, eq=False)
class Market:
    """Who asks, how many, and whom they may have.

    Attributes:
        pairs: that may be assigned.
        expanded: bool [P], whom only the include rule keeps out.
        asked: int64 [C], users that campaigns want.
        counts: int64 [C, reasons], of the funnel.
        whole: whether the pairs are all that an exact assignment needs to know.
    """

    pairs: Pairs
    expanded: np.ndarray
    asked: np.ndarray
    counts: np.ndarray
    whole: bool


def merge(plan: Plan, shards: Shards) -> Market:
    """Join the shards of a run."""
    counts = shards.counts
    parts = [_of_campaign(plan, shards, counts, row) for row in range(len(plan.file.campaigns))]
    eligible = counts[:, ELIGIBLE]
    asked = np.array([c.asks(int(n)) for c, n in zip(plan.file.campaigns, eligible, strict=True)], np.int64)
    room, slots = plan.standing.capacity, asked.clip(min=1)
    least = int(room[room > 0].min(initial=1))
    limits = np.where(asked < 1, 0, depth(slots, least, plan.people.count, plan.per_slot))
    orders = [_best(users, values, limit) for (users, values, _), limit in zip(parts, limits, strict=True)]
    kept = np.array([len(order) for order in orders])
    cuts = np.full(len(orders), -np.inf)
    for row in np.flatnonzero((kept > 0) & (kept < eligible)):
        cuts[row] = parts[row][1][orders[row][-1]]
    users, values, expanded = (
        np.concatenate([part[column][order] for part, order in zip(parts, orders, strict=True)])
        for column in range(3)
    )
    campaign = np.repeat(np.arange(len(kept), dtype=np.int32), kept)
    whole = bool(((kept >= np.minimum(needed(slots, least), eligible)) | (asked < 1)).all())
    pairs = Pairs(campaign, users.astype(np.int32), values, cuts, plan.people.count)
    return Market(pairs, expanded, asked, counts, whole)


def _of_campaign(
    plan: Plan, shards: Shards, counts: np.ndarray, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users int32 [n], values float32 [n], and bool [n] of those taken from beyond the include rule because too few match
    it; moves these in `counts` to the eligible."""
    campaign = plan.file.campaigns[row]
    users, values = shards.of(PAIRS, row)
    others, worth = shards.of(OTHERS, row)
    eligible = int(counts[row, ELIGIBLE])
    missing = max(campaign.asks(eligible) - eligible, 0) if campaign.expansion else 0
    best = np.argsort(-worth, kind="stable")[:missing]
    counts[row, ELIGIBLE] += len(best)
    counts[row, NOT_INCLUDED] -= len(best)
    expanded = np.repeat((False, True), (len(users), len(best)))
    return np.concatenate((users, others[best])), np.concatenate((values, worth[best])), expanded


def _best(users: np.ndarray, values: np.ndarray, limit: int) -> np.ndarray:
    """Places of the best so many pairs, best first, then in the order of users."""
    if not limit:
        return np.empty(0, np.int64)
    if limit < len(values):
        lowest = np.partition(values, -limit)[-limit]
        near = np.flatnonzero(values >= lowest)
    else:
        near = np.arange(len(values))
    order = near[np.lexsort((users[near], -values[near]))]
    return order[:limit]


def save(market: Market, folder: Path, run: str) -> None:
    """Write a market, whole or not at all."""
    pairs = market.pairs
    with atomic_folder(folder, marker=MARKER) as temporary:
        for name, array in (
            ("campaign", pairs.campaign),
            ("user", pairs.user),
            ("value", pairs.value),
            ("cuts", pairs.cuts),
            ("expanded", market.expanded),
            ("asked", market.asked),
            ("counts", market.counts),
        ):
            np.save(temporary / f"{name}.npy", array)
        about = {"format": FORMAT, "run": run, "users": pairs.num_users, "whole": market.whole}
        write_json(temporary / MARKER, about)


def load(folder: Path, run: str) -> Market | None:
    """What `save` wrote for the same run; None for another's."""
    about = read_json(folder / MARKER, what="merged run", make="duality target merge")
    if about.get("format") != FORMAT or about["run"] != run:
        return None
    campaign, user, value, cuts, expanded, asked, counts = (
        np.load(folder / f"{name}.npy")
        for name in ("campaign", "user", "value", "cuts", "expanded", "asked", "counts")
    )
    pairs = Pairs(campaign, user, value, cuts, int(about["users"]))
    return Market(pairs, expanded, asked, counts, bool(about["whole"]))
