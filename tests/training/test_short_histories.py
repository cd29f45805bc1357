"""Logs in which almost everybody has one event: no cycle has anything to rebuild there."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
from small_worlds import SMALL

import duality
from duality.errors import InputError


def log(long_users: int, single_users: int) -> pa.Table:
    """Users with four events on shared items, then users with one event on an item of their own."""
    user = [f"long{n}" for n in range(long_users) for _ in range(4)] + [
        f"one{n}" for n in range(single_users)
    ]
    item = [f"i{(n + step) % 9}" for n in range(long_users) for step in range(4)]
    item += [f"own{n}" for n in range(single_users)]
    time = [1_700_000_000 + n for n in range(len(user))]
    return pa.table({"user_id": user, "item_id": item, "timestamp": time})


def test_batches_of_single_events_train(tmp_path: Path) -> None:
    duality.import_events(log(8, 300), tmp_path / "d")
    settings = [*SMALL, "train.rows=10", "train.epochs=3", "loss.cycle_rows=2"]
    document = duality.train(tmp_path / "d", tmp_path / "m", settings=settings)
    assert document["epochs"] == 3
    assert all(math.isfinite(value) for value in document["validation"].values())


def test_a_log_without_a_query_is_refused_before_training(tmp_path: Path) -> None:
    duality.import_events(log(0, 30), tmp_path / "d")
    with pytest.raises(InputError, match="nothing to validate on"):
        duality.train(tmp_path / "d", tmp_path / "m", settings=SMALL)
    assert not (tmp_path / "m").exists()
