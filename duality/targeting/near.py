"""Whom the index finds for each campaign, where only they are scored (`scoring = "index"`), and what that misses.

An approximate index answers for a small audience without looking at everybody. What it overlooks is measured: of the users
of the sample, scored exactly, those who belong to a campaign's best are looked for among the found.

Writes: one `.npz` in the work folder, so that shards and later steps see the same users.
Cost:   a search per campaign; reading the vectors of those found.
Shapes: C campaigns, U users, F found of a campaign, n users of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from duality.artifacts import atomic_file
from duality.runtime import progress
from duality.targeting.eligibility import ELIGIBLE

if TYPE_CHECKING:
    from duality.targeting.plan import Plan

MORE = 1.25  # times as many are asked for as rules are expected to leave, and some more
LEAST = 100


@dataclass(frozen=True, eq=False)
class Near:
    """Users found for each campaign.

    Attributes:
        rows: per campaign int64 [F], ascending.
        values: per campaign float32 [F].
    """

    rows: Sequence[np.ndarray]
    values: Sequence[np.ndarray]

    def block(self, rows: slice) -> np.ndarray:
        """Values float32 [C, n] of a block, NaN where a campaign did not find a user."""
        found = np.full((len(self.rows), rows.stop - rows.start), np.nan, np.float32)
        for campaign, (mine, values) in enumerate(zip(self.rows, self.values, strict=True)):
            first, last = np.searchsorted(mine, (rows.start, rows.stop))
            found[campaign, mine[first:last] - rows.start] = values[first:last]
        return found


def near_of(plan: Plan, file: Path) -> Near:
    """What the index finds; read from `file` if that was done before."""
    if not file.exists():
        near = _search(plan)
        with atomic_file(file) as temporary, open(temporary, "wb") as opened:
            ends = np.cumsum([len(rows) for rows in near.rows])
            np.savez(opened, ends=ends, rows=np.concatenate(near.rows), values=np.concatenate(near.values))
    with np.load(file) as stored:
        ends = stored["ends"][:-1]
        return Near(np.split(stored["rows"], ends), np.split(stored["values"], ends))


def _search(plan: Plan) -> Near:
    found, people = [], plan.people
    vectors, levels = plan.scorer.vectors, plan.scorer.levels
    with progress(len(vectors), "asking the index", unit="campaigns") as bar:
        for wanted, reasons, vector in zip(plan.wanted, plan.reasons, vectors, strict=True):
            eligible = max((reasons == ELIGIBLE).mean(), 1 / len(reasons))
            number = min(int(MORE * wanted / eligible) + LEAST, people.count)
            found.append(list(plan.index.nearest(vector, number)))
            bar.advance()
    names, place = np.unique(
        np.array([user for users in found for user in users], object), return_inverse=True
    )
    known = people.places(names.tolist())
    row_of = np.empty(len(names), np.int64)
    row_of[known[known >= 0]] = np.flatnonzero(known >= 0)
    rows = [
        np.sort(part) for part in np.split(row_of[place], np.cumsum([len(users) for users in found])[:-1])
    ]
    values = [
        people.vectors(mine) @ vector + level
        for mine, vector, level in zip(rows, vectors, levels, strict=True)
    ]
    return Near(rows, values)


def recall(plan: Plan, campaign: int, near: Near) -> tuple[float, int] | None:
    """Of a campaign's best users, as many as it asks for, the share that the index found; and how many were looked for,
    those of them who are in the sample. None where the sample has none.
    """
    reasons, values = plan.reasons[campaign], plan.values[campaign]
    eligible = np.flatnonzero(reasons == ELIGIBLE)
    share = len(plan.people.sample) / plan.people.count
    asked = plan.file.campaigns[campaign].asks(round(len(eligible) / share))
    number = min(round(asked * share), len(eligible))
    if not number:
        return None
    best = eligible[np.argsort(-values[eligible], kind="stable")[:number]]
    return float(np.isin(plan.people.sample[best], near.rows[campaign]).mean()), number
