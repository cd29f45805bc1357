"""What a run reaches: the funnel, how scores fall with size, and where campaigns want the same users.

Everything here may be shown to people who may not see users, so counts are rounded to tens.

Shapes: C campaigns, n users of a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.targeting.assignment import Assignment
from duality.targeting.eligibility import ELIGIBLE, funnel
from duality.targeting.merging import Market
from duality.targeting.plan import Plan
from duality.targeting.scoring import lift
from duality.targeting.spec import CampaignFile

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ROUNDED_TO = 10


def rounded(count: int) -> int:
    """A count to the nearest ten."""
    return int(ROUNDED_TO * round(count / ROUNDED_TO))


def reach(plan: Plan, market: Market, filled: list[int]) -> dict[str, Any]:
    """Per campaign the funnel, the curve of size and score, and what was asked and found.

    Args:
        filled: users found.
    """
    campaigns = []
    for row, campaign in enumerate(plan.file.campaigns):
        campaigns.append(
            {
                "id": campaign.id,
                "funnel": [
                    {"step": step, "left": rounded(left)} for step, left in funnel(market.counts[row])
                ],
                "asked": rounded(int(market.asked[row])),
                "found": rounded(filled[row]),
                "curve": _curve_of(plan, market, row),
            }
        )
    about = {"scores": plan.file.run.scores, "counts": f"rounded to {ROUNDED_TO}"}
    if plan.people.sampled:
        about["curves"] = f"of a sample of {len(plan.people.sample):,} users"
    return {**about, "campaigns": campaigns}


def _curve_of(plan: Plan, market: Market, row: int) -> list[dict[str, Any]]:
    values, may = plan.values[row], plan.reasons[row] == ELIGIBLE
    if not plan.people.sampled:  # then those are known whom a campaign has beyond its include rule
        mine = (market.pairs.campaign == row) & market.expanded
        may[market.pairs.user[mine]] = True
    return curve(values[may], plan.averages[row], plan.calibrated, int(market.counts[row, ELIGIBLE]))


def curve(values: np.ndarray, likely: float, calibrated: bool, eligible: int) -> list[dict[str, Any]]:
    """The best of the eligible, for shares of them: how many, mean and lowest score, and how many times as likely they are
    as the average user (all of them, eligible or not).

    Args:
        values: float32 [n], of those in the sample who may be had.
        likely: of the average user (`scoring.average`).
        eligible: how many they stand for.
    """
    if not len(values):
        return []
    best, points = -np.sort(-values.astype(np.float64)), []
    times = lift(best, likely, calibrated)
    for share in SHARES:
        number = max(1, round(share * len(best)))
        points.append(
            {
                "share": share,
                "users": rounded(max(1, round(share * eligible))),
                "mean_score": float(best[:number].mean()),
                "lowest_score": float(best[number - 1]),
                "lift": float(times[:number].mean()),
            }
        )
    return points


def overlaps(file: CampaignFile, market: Market, assignment: Assignment) -> list[dict[str, Any]]:
    """For every two campaigns: users that both would take if they were alone, and users that both got."""
    pairs, offsets = market.pairs, market.pairs.offsets
    # The pairs of a campaign lie best first, and there are at least as many as it asks for.
    alone = [pairs.user[first : first + asked] for first, asked in zip(offsets, _alone(market), strict=False)]
    chosen = [pairs.user[mine] for mine in assignment.pairs]
    found = []
    for first in range(len(alone)):
        for second in range(first + 1, len(alone)):
            both = len(np.intersect1d(alone[first], alone[second]))
            either = len(alone[first]) + len(alone[second]) - both
            found.append(
                {
                    "first": file.campaigns[first].id,
                    "second": file.campaigns[second].id,
                    "wanted_by_both": rounded(both),
                    "jaccard": round(both / either, 2) if either else 0.0,
                    "given_to_both": rounded(len(np.intersect1d(chosen[first], chosen[second]))),
                }
            )
    return found


def _alone(market: Market) -> np.ndarray:
    """Users int64 [C] that each campaign would have if it were alone."""
    least: np.ndarray = np.minimum(market.asked, np.diff(market.pairs.offsets))
    return least
