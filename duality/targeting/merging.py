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
    counts, pairs = shards.counts, []
    for row, campaign in enumerate(plan.file.campaigns):
        users, values = shards.of(PAIRS, row)
        missing = campaign.asks(int(counts[row, ELIGIBLE])) - int(counts[row, ELIGIBLE])
        more, worth = shards.of(OTHERS, row)
        best = (
            np.argsort(-worth, kind="stable")[: max(missing, 0)] if campaign.expansion else np.empty(0, int)
        )
        counts[row, ELIGIBLE] += len(best)
        counts[row, NOT_INCLUDED] -= len(best)
        users, values = np.concatenate((users, more[best])), np.concatenate((values, worth[best]))
        pairs.append((users, values, np.arange(len(users)) >= len(users) - len(best)))
    eligible = counts[:, ELIGIBLE]
    asked = np.array([c.asks(int(n)) for c, n in zip(plan.file.campaigns, eligible, strict=True)], np.int64)
    room = plan.standing.capacity
    least = int(room[room > 0].min(initial=1))
    limits = depth(np.maximum(asked, 1), least, plan.people.count, plan.per_slot)
    enough = np.minimum(needed(np.maximum(asked, 1), least), eligible)
    limits[asked < 1] = 0
    chosen = [_best(users, values, limit) for (users, values, _), limit in zip(pairs, limits, strict=True)]
    kept = np.array([len(order) for order in chosen])
    cuts = np.full(len(chosen), -np.inf)
    for row, order in enumerate(chosen):
        if len(order) and len(order) < eligible[row]:
            cuts[row] = pairs[row][1][order[-1]]
    joined = [np.concatenate([part[n][o] for part, o in zip(pairs, chosen, strict=True)]) for n in range(3)]
    campaign_of = np.repeat(np.arange(len(kept), dtype=np.int32), kept)
    market = Pairs(campaign_of, joined[0].astype(np.int32), joined[1], cuts, plan.people.count)
    whole = bool(((kept >= enough) | (asked < 1)).all())
    return Market(market, joined[2], asked, counts, whole)


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
