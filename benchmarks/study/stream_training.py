"""Datasets of what lay before each day, and a model of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.runtime import say
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

DAY = 86_400_000_000


def mornings(dataset: Dataset, days: int) -> list[int]:
    """Microseconds at which the last `days` days begin, counted back from the end of the log."""
    assert dataset.event_time is not None
    end = int(np.asarray(dataset.event_time).max()) + 1
    return [end - DAY * left for left in range(days, 0, -1)]


def events_of(dataset: Dataset, start: int, end: int) -> pa.Table:
    """`user`, `item` and `time` of the events from `start` to before `end`, in time order."""
    time = np.asarray(dataset.event_time)
    rows = np.flatnonzero((time >= start) & (time < end))
    rows = rows[np.argsort(time[rows], kind="stable")]
    return pa.table(
        {
            "user": dataset.user_ids.ids(dataset.event_user[rows]),
            "item": dataset.item_ids.ids(dataset.event_item[rows]),
            "time": pa.array(time[rows], pa.timestamp("us", "UTC")),
        }
    )


def train_all(data: Path, recipe: Path, folder: Path, days: int, seeds: Sequence[int]) -> None:
    """Train what is missing: F/models/DAY-SEED on F/data/DAY."""
    dataset = Dataset.open(data)
    for seed in seeds:
        for day, morning in enumerate(mornings(dataset, days)):
            before, out = folder / "data" / str(day), folder / "models" / f"{day}-{seed}"
            if not (before / "dataset.json").exists():
                import_events(events_of(dataset, 0, morning), before)
            if not (out / "config.json").exists():
                say(f"training before day {day}, seed {seed}")
                train(before, out, load_recipe(recipe, [f"train.seed={seed}"]))
