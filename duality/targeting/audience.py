"""The tables of a run: who was chosen and why, who was not and why.

Shapes: C campaigns, U users, A chosen (campaign, user) pairs, D dimensions.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from duality.errors import InputError
from duality.targeting.eligibility import REASONS, Eligibility
from duality.targeting.scoring import Population, TargetingIndex, target_items
from duality.targeting.spec import Campaign, CampaignFile, Holdout

if TYPE_CHECKING:
    import pyarrow as pa

TREATED, HOLDOUT = "treated", "holdout"


def audience_table(
    index: TargetingIndex,
    file: CampaignFile,
    people: Population,
    values: np.ndarray,
    eligibility: Eligibility,
    rows: list[np.ndarray],
) -> pa.Table:
    """[A] `campaign`, `user`, `rank`, `score`, `probability` (null without a calibration), `arm` (treated or holdout)
    and `reason`; campaigns in the file's order, best user first.

    Args:
        values: float64 [C, U].
        rows: of each campaign int64 users, best first.
    """
    import pyarrow as pa

    parts = []
    for row, (campaign, users) in enumerate(zip(file.campaigns, rows, strict=True)):
        names = [people.ids[user] for user in users]
        parts.append(
            pa.table(
                {
                    "campaign": pa.array([campaign.id] * len(users), pa.string()),
                    "user": pa.array(names, pa.string()),
                    "rank": pa.array(np.arange(1, len(users) + 1), pa.int64()),
                    "score": pa.array(values[row, users], pa.float32()),
                    "probability": pa.array(
                        _probabilities(index, people, file, campaign, values[row], users), pa.float32()
                    ),
                    "arm": pa.array(arms(campaign, names), pa.string()),
                    "reason": pa.array(
                        _reasons(index, people, campaign, users, eligibility.expanded[row]), pa.string()
                    ),
                }
            )
        )
    return pa.concat_tables(parts)


def excluded_table(file: CampaignFile, people: Population, eligibility: Eligibility) -> pa.Table:
    """`campaign`, `user`, `reason` of all who could not be had; campaigns in the file's order, users by id."""
    import pyarrow as pa

    campaign, user = np.nonzero(eligibility.reason)
    names = pa.array([campaign.id for campaign in file.campaigns], pa.string())
    return pa.table(
        {
            "campaign": names.take(pa.array(campaign)),
            "user": pa.array(people.ids, pa.string()).take(pa.array(user)),
            "reason": pa.array(REASONS, pa.string()).take(pa.array(eligibility.reason[campaign, user])),
        }
    )


def arms(campaign: Campaign, users: list[str]) -> list[str]:
    """The arm of each user: the same whenever the same user is asked about with the same salt."""
    if campaign.holdout is None:
        return [TREATED] * len(users)
    return [HOLDOUT if held_out(campaign.holdout, campaign.id, user) else TREATED for user in users]


def held_out(holdout: Holdout, campaign: str, user: str) -> bool:
    """Whether a hash of salt and user, uniform on 0 to 1, is below the fraction; the salt is the campaign's id if it
    has none."""
    salt = (holdout.salt or campaign).encode()
    digest = hashlib.blake2b(user.encode(), key=hashlib.blake2b(salt).digest(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < holdout.fraction * 2**64


def _probabilities(
    index: TargetingIndex,
    people: Population,
    file: CampaignFile,
    campaign: Campaign,
    values: np.ndarray,
    users: np.ndarray,
) -> list[float | None]:
    """Calibrated, of chosen users; None where the index has no calibration or the campaign is for likeness."""
    if file.run.scores == "probability":
        return list(values[users])
    if not (campaign.items or campaign.items_where) or not len(users):
        return [None] * len(users)
    items = target_items(index, campaign)[1]
    try:
        found = index.probabilities(people.vectors[users] @ items.T, [people.ids[user] for user in users])
    except InputError:
        return [None] * len(users)
    return list(np.asarray(found).mean(axis=1))


def _reasons(
    index: TargetingIndex, people: Population, campaign: Campaign, users: np.ndarray, expanded: np.ndarray
) -> list[str]:
    """Why each chosen user fits, one line; no other user is named."""
    if campaign.seed_users:
        words = ["like the seed users"] * len(users)
    elif campaign.vector:
        words = ["near the vector"] * len(users)
    else:
        ids, vectors = target_items(index, campaign)
        nearest = (people.vectors[users] @ vectors.T).argmax(1) if len(users) else []
        words = [f"most for item {ids[item]}" if len(ids) > 1 else f"for item {ids[0]}" for item in nearest]
    return [
        f"{text}; beyond the include rule" if expanded[user] else text
        for text, user in zip(words, users, strict=True)
    ]
