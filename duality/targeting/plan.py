"""What a run can know before all users are scored: from a sample, how many pairs of each campaign are worth keeping.

Where there are no more users than a sample holds, the sample is everybody and nothing is estimated.

Shapes: C campaigns, U users, n users of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from duality.targeting.eligibility import ELIGIBLE, NOT_INCLUDED, Standing, by_value
from duality.targeting.index_protocol import TargetingIndex
from duality.targeting.near import Near
from duality.targeting.population import Population
from duality.targeting.scoring import Scorer, average, scorer_of
from duality.targeting.spec import CampaignFile

EXACT = 1_000_000  # pairs that an exact assignment takes
DEPTH = 2  # pairs kept per slot beyond that, and some more
MORE = 1_000
SURE = 6  # standard errors of the sample by which a threshold keeps more than it has to
FEW = 500  # of the sample: fewer eligible are no ground for a threshold


@dataclass(frozen=True, eq=False)
class Plan:
    """How a run scores its users.

    Attributes:
        index: users and items with their vectors.
        file, people, standing, scorer: who asks whom for what.
        values: float32 [C, n], of the sample.
        reasons: int8 [C, n], of the sample.
        averages: per campaign how likely the average user is (`scoring.average`).
        keep: float32 [C], pairs worth less need not be kept; -inf keeps all.
        per_slot: pairs kept per slot where an exact assignment would need too many.
        wanted: int64 [C], pairs that are kept.
        near: who is scored, if not everybody.
    """

    index: TargetingIndex
    file: CampaignFile
    people: Population
    standing: Standing
    scorer: Scorer
    values: np.ndarray
    reasons: np.ndarray
    averages: list[float]
    keep: np.ndarray
    per_slot: int
    wanted: np.ndarray
    near: Near | None = None

    def values_of(self, number: int) -> tuple[slice, np.ndarray]:
        """Rows of a block and their values float32 [C, n], NaN where they are not scored."""
        people, scorer = self.people, self.scorer
        if self.near is not None:
            return people.rows(number), self.near.block(people.rows(number))
        rows, vectors = people.block(number)
        names = people.ids[rows].to_pylist() if scorer.calibrated else ()
        return rows, scorer.values(self.index, vectors, names, rows)

    @property
    def calibrated(self) -> bool:
        return self.file.run.scores == "probability"

    @cached_property
    def restricted(self) -> list[int]:
        """Campaigns that something may keep users out of."""
        bounded = (self._bounds(campaign) != (None, None) for campaign in range(len(self.averages)))
        return [
            n
            for n, (why, bound) in enumerate(zip(self.standing.failing, bounded, strict=True))
            if why or bound
        ]

    @cached_property
    def open(self) -> np.ndarray:
        """Campaigns that every user may be in, int64."""
        return np.delete(np.arange(len(self.averages)), self.restricted)

    def reasons_of(self, campaign: int, rows: slice | np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """int8 [n], places in `REASONS`, of users with values float32 [n]; None where all may be had."""
        return by_value(self.standing.reasons(campaign, rows), values, *self._bounds(campaign))

    def others(self, campaign: int, values: np.ndarray, reasons: np.ndarray | None) -> np.ndarray:
        """Places int64 of the users whom only the include rule keeps out, where a campaign goes beyond it.

        Args:
            values, reasons: [n], of a block.
        """
        if not self.file.campaigns[campaign].expansion or reasons is None:
            return np.empty(0, np.int64)
        kept_out = np.flatnonzero(reasons == NOT_INCLUDED)
        kept_out = kept_out[~np.isnan(values[kept_out])]
        worth = by_value(None, values[kept_out], *self._bounds(campaign))
        return kept_out if worth is None else kept_out[worth == ELIGIBLE]

    def _bounds(self, campaign: int) -> tuple[float | None, float | None]:
        """The lowest value that `min_score` and `min_lift` allow, where they are asked for."""
        asked, likely = self.file.campaigns[campaign], self.averages[campaign]
        if asked.min_lift is None:
            return asked.min_score, None
        lowest = asked.min_lift * likely if self.calibrated else float(np.log(asked.min_lift)) + likely
        return asked.min_score, lowest


def plan_run(
    index: TargetingIndex, file: CampaignFile, people: Population, standing: Standing, per_slot: int = DEPTH
) -> Plan:
    """Score the sample, and decide what is kept.

    Raises:
        UnknownIdError, ConfigError: see `scoring.scorer_of`.
    """
    calibrated = file.run.scores == "probability"
    scorer = scorer_of(index, people, file.campaigns, file.run.scores)
    values = _of_sample(index, people, scorer)
    levels = _levels(index, file, people, scorer, values)
    if levels.any():
        # Added where blocks add them, so that the sample's values are those of the blocks to the last bit.
        scorer = replace(scorer, levels=scorer.levels + levels)
        values = _of_sample(index, people, scorer)
    averages = [average(row, calibrated) for row in values]
    everybody = np.full(len(values), -np.inf, np.float32)
    reasons = np.zeros(values.shape, np.int8)
    wanted = np.zeros(len(values), np.int64)
    found = Plan(
        index, file, people, standing, scorer, values, reasons, averages, everybody, per_slot, wanted
    )
    for row, worth in enumerate(values):
        mine = found.reasons_of(row, people.sample, worth)
        reasons[row] = ELIGIBLE if mine is None else mine
    _decide(found)
    return found


def _levels(
    index: TargetingIndex, file: CampaignFile, people: Population, scorer: Scorer, values: np.ndarray
) -> np.ndarray:
    """What makes values of campaigns for items comparable between campaigns, float32 [C]: all users together are expected
    to take the items as often as they were taken lately.

    Scores compare users for one item. How much an item's popularity adds to them is chosen for the ranking, and a
    mean of logarithms over several items has no level of its own.
    """
    found, asked = np.zeros(len(values), np.float32), [ids for ids, _ in scorer.items]
    wanted = [row for row, ids in enumerate(asked) if len(ids)]
    if scorer.calibrated or not wanted:
        return found
    lately = index.takes([asked[row] for row in wanted], file.run.rate_days)
    if lately is None:
        return found
    takes, total = lately
    likely = np.array([average(values[row], False) for row in wanted])
    intensity = file.run.scores == "log-intensity"
    found[wanted] = np.log(takes) - (likely + np.log(people.count if intensity else total))
    return found


def _of_sample(index: TargetingIndex, people: Population, scorer: Scorer) -> np.ndarray:
    """float32 [C, n]; where the sample is everybody, products are those of the blocks."""
    if people.sampled:
        rows = people.sample
        names = people.names(rows) if scorer.calibrated else ()
        return scorer.values(index, people.vectors(rows), names, rows)
    parts = []
    for number in range(people.num_blocks):
        part, vectors = people.block(number)
        names = people.ids[part].to_pylist() if scorer.calibrated else ()
        parts.append(scorer.values(index, vectors, names, part))
    return np.concatenate(parts, axis=1)


def needed(sizes: np.ndarray, room: int) -> np.ndarray:
    """Pairs int64 [C] of each campaign that an exact assignment needs to know (assignment.py has the proof).

    Args:
        sizes: int64 [C], slots.
        room: the fewest campaigns that a user may be in who may be in any.
    """
    found: np.ndarray = sizes + (sizes.sum() - sizes) // max(room, 1) + 1
    return found


def depth(sizes: np.ndarray, room: int, most: int, per_slot: int) -> np.ndarray:
    """Pairs int64 [C] that are kept of each campaign: enough for an exact assignment, if it has no more than EXACT; else
    `per_slot` of them, and some more, but not more than there are (`most`)."""
    exact = np.minimum(needed(sizes, room), most)
    return exact if exact.sum() <= EXACT else np.minimum(exact, per_slot * sizes + MORE)


def _decide(plan: Plan) -> None:
    """Set `wanted` and `keep` from the sample."""
    people = plan.people
    share = people.count / len(people.sample)
    eligible = [int((reasons == ELIGIBLE).sum()) for reasons in plan.reasons]
    # Of a sample nobody knows exactly how many there are to be had: then a campaign may want of everybody.
    may = [people.count] * len(eligible) if people.sampled else eligible
    sizes = np.array([c.asks(n) for c, n in zip(plan.file.campaigns, may, strict=True)])
    room = plan.standing.capacity
    plan.wanted[:] = depth(sizes, int(room[room > 0].min(initial=1)), people.count, plan.per_slot)
    for row, (values, reasons) in enumerate(zip(plan.values, plan.reasons, strict=True)):
        found = values[reasons == ELIGIBLE]
        number = int(np.ceil(plan.wanted[row] / share))
        number += int(SURE * np.sqrt(number)) if people.sampled else 0
        if number < len(found) and (number > FEW or not people.sampled):
            plan.keep[row] = np.partition(found, -number)[-number]
