"""How many users of its item a query may know: against counting them one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from duality.data.dataset import Dataset
from duality.data.splits import leave_one_out
from duality.evaluation.queries import ITEM_TO_USER, make_queries
from duality.model.folder import ModelFolder
from duality.workflows.scorers import States
from duality.workflows.train import world_of


def test_known_users_are_those_before_the_query(world: Path) -> None:
    dataset = Dataset.open(world / "datasets/default")
    split = leave_one_out(dataset)
    possible = world_of(dataset, split, "test")
    queries = make_queries(possible, split.test, ITEM_TO_USER)
    states = States(ModelFolder.open(world / "models/default").load(), dataset, possible.visible)
    indptr, event = states.item_histories
    time = np.asarray(dataset.event_time)
    assert queries.time is not None
    expected = [
        int((time[event[indptr[item] : indptr[item + 1]]] < moment).sum())
        for item, moment in zip(queries.item, queries.time, strict=True)
    ]
    assert states.known_users(queries, slice(0, len(queries))).tolist() == expected
    assert len(set(expected)) > 1
