"""A small synthetic log, settings that make training small, and where the shared datasets are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def synthetic_log(users: int = 60, items: int = 60, seed: int = 0, groups: int = 4) -> pa.Table:
    """A log in which users of a group mostly meet items of that group; user n also meets item n."""
    rng = np.random.default_rng(seed)
    user, item = [], []
    for number in range(users):
        weights = np.where(np.arange(items) % groups == number % groups, 8.0, 1.0) / (
            1 + np.arange(items) / 10
        )
        count = int(rng.integers(4, 16))
        weights[number % items] = 0
        user += [number] * (count + 1)
        item += [number % items]
        item += rng.choice(items, size=count, replace=False, p=weights / weights.sum()).tolist()
    time = 1_700_000_000 + rng.permutation(len(user)) * 60
    return pa.table(
        {"user_id": [f"u{n}" for n in user], "item_id": [f"i{n}" for n in item], "timestamp": time}
    )


def synthetic_items(items: int = 60, groups: int = 4) -> pa.Table:
    return pa.table(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [f"Item {n}" for n in range(items)],
            "year": [1980 + n for n in range(items)],
            "genres": [[f"G{n % groups}"] for n in range(items)],
        }
    )


SMALL = [
    "model.dim=16",
    "model.user_encoder.hidden=16",
    "model.item_encoder.hidden=16",
    "train.epochs=12",
    "train.learning_rate=0.01",
    "train.rows=200",
    "train.warmup_steps=2",
]
ONE_SIDED = [
    f"loss.{term}=0" for term in ("users_compete", "next_user", "items_compete", "cycle_item", "cycle_user")
]
