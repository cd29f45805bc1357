"""The tables of a run: who was chosen and why, who was not and why; campaigns in the file's order, one at a time.

Shapes: C campaigns, U users, A users of an audience.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from duality.errors import InputError
from duality.targeting.assignment import Assignment
from duality.targeting.eligibility import REASONS
from duality.targeting.merging import Market
from duality.targeting.plan import Plan
from duality.targeting.shards import Shards
from duality.targeting.spec import Campaign, Holdout

if TYPE_CHECKING:
    import pyarrow as pa

TREATED, HOLDOUT = "treated", "holdout"


def write_audience(path: Path, plan: Plan, market: Market, assignment: Assignment) -> None:
    """`campaign`, `user`, `rank`, `score`, `probability` (null without a calibration), `arm` (treated or holdout)
    and `reason`; best user first."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        {
            "campaign": pa.string(),
            "user": pa.string(),
            "rank": pa.int64(),
            "score": pa.float32(),
            "probability": pa.float32(),
            "arm": pa.string(),
            "reason": pa.string(),
        }
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in range(len(plan.file.campaigns)):
            writer.write_table(_audience(plan, market, assignment.pairs[row], row, schema))


def _audience(plan: Plan, market: Market, mine: np.ndarray, row: int, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    campaign, users = plan.file.campaigns[row], market.pairs.user[mine]
    names, values = plan.people.names(users), market.pairs.value[mine]
    columns = {
        "campaign": [campaign.id] * len(users),
        "user": names,
        "rank": np.arange(1, len(users) + 1),
        "score": values.astype(np.float32),
        "probability": _probabilities(plan, row, values, users, names),
        "arm": arms(campaign, names),
        "reason": _reasons(plan, row, users, market.expanded[mine]),
    }
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})


def write_excluded(path: Path, plan: Plan, market: Market, shards: Shards) -> None:
    """`campaign`, `user`, `reason` of all who could not be had; users by id."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.array(REASONS, pa.string())
    schema = pa.schema({"campaign": pa.string(), "user": pa.string(), "reason": pa.string()})
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for row, campaign in enumerate(plan.file.campaigns):
            rows, reasons = (np.concatenate(part) for part in zip(*shards.excluded(row), strict=True))
            had = market.pairs.user[(market.pairs.campaign == row) & market.expanded]
            left = ~np.isin(rows, had)
            users = plan.people.ids.take(pa.array(rows[left])).cast(pa.string())
            columns = (
                pa.array([campaign.id] * int(left.sum()), pa.string()),
                users,
                texts.take(pa.array(reasons[left])),
            )
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True))))


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
    plan: Plan, row: int, values: np.ndarray, users: np.ndarray, names: list[str]
) -> list[float | None]:
    """Calibrated, of chosen users; None where the index has no calibration or the campaign is for likeness."""
    if plan.calibrated:
        return list(values)
    items = plan.scorer.items[row][1]
    if not len(items) or not len(users):
        return [None] * len(users)
    try:
        found = plan.index.probabilities(plan.people.vectors(users) @ items.T, names)
    except InputError:
        return [None] * len(users)
    return list(np.asarray(found).mean(axis=1))


def _reasons(plan: Plan, row: int, users: np.ndarray, expanded: np.ndarray) -> list[str]:
    """Why each chosen user fits, one line; no other user is named."""
    campaign, (ids, vectors) = plan.file.campaigns[row], plan.scorer.items[row]
    if campaign.seed_users:
        words = ["like the seed users"] * len(users)
    elif campaign.vector:
        words = ["near the vector"] * len(users)
    elif len(ids) == 1:
        words = [f"for item {ids[0]}"] * len(users)
    else:
        nearest = (plan.people.vectors(users) @ vectors.T).argmax(1) if len(users) else []
        words = [f"most for item {ids[item]}" for item in nearest]
    return [
        f"{text}; beyond the include rule" if beyond else text
        for text, beyond in zip(words, expanded, strict=True)
    ]
