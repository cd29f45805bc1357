"""What a run reaches: the funnel, how scores fall with size, and where campaigns want the same users.

Everything here may be shown to people who may not see users, so counts are rounded to tens.

Shapes: C campaigns, U users.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from duality.targeting.eligibility import Eligibility, lift
from duality.targeting.spec import CampaignFile

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ROUNDED_TO = 10


def rounded(count: int) -> int:
    """A count to the nearest ten."""
    return int(ROUNDED_TO * round(count / ROUNDED_TO))


def reach(
    file: CampaignFile, values: np.ndarray, eligibility: Eligibility, filled: list[int]
) -> dict[str, Any]:
    """Per campaign the funnel, the curve of size and score, and what was asked and found.

    Args:
        values: float64 [C, U].
        filled: users found.
    """
    calibrated = file.run.scores == "probability"
    campaigns = []
    for row, campaign in enumerate(file.campaigns):
        may = eligibility.eligible[row]
        campaigns.append(
            {
                "id": campaign.id,
                "funnel": [{"step": step, "left": rounded(left)} for step, left in eligibility.funnel(row)],
                "asked": rounded(campaign.asks(int(may.sum()))),
                "found": rounded(filled[row]),
                "curve": curve(values[row], may, calibrated),
            }
        )
    return {"scores": file.run.scores, "counts": f"rounded to {ROUNDED_TO}", "campaigns": campaigns}


def curve(values: np.ndarray, may: np.ndarray, calibrated: bool) -> list[dict[str, Any]]:
    """The best n of the eligible, for shares of them: n, mean and lowest score, and how many times as likely they are
    as the average user (all of them, eligible or not)."""
    best = np.flatnonzero(may)
    best = best[np.argsort(-values[best], kind="stable")]
    if not len(best):
        return []
    likely, points = lift(values, calibrated)[best], []
    for share in SHARES:
        number = max(1, round(share * len(best)))
        points.append(
            {
                "share": share,
                "users": rounded(number),
                "mean_score": float(values[best[:number]].mean()),
                "lowest_score": float(values[best[number - 1]]),
                "lift": float(likely[:number].mean()),
            }
        )
    return points


def overlaps(
    file: CampaignFile, values: np.ndarray, eligibility: Eligibility, chosen: list[np.ndarray]
) -> list[dict[str, Any]]:
    """For every two campaigns: users that both would take if they were alone, and users that both got."""
    may, alone = eligibility.eligible, []
    for row, campaign in enumerate(file.campaigns):
        best = np.flatnonzero(may[row])
        best = best[np.argsort(-values[row, best], kind="stable")]
        alone.append(best[: campaign.asks(len(best))])
    found = []
    for first in range(len(alone)):
        for second in range(first + 1, len(alone)):
            both = len(np.intersect1d(alone[first], alone[second]))
            either = len(np.union1d(alone[first], alone[second]))
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
