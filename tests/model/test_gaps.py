"""Rows that know how long after the row before they happened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_worlds import both_batches, dataset, everything, rivals

from duality.data.histories import user_histories
from duality.embeddings import states_before_events, user_states_after
from duality.encoders.base import Layout
from duality.encoders.times import BUCKETS, buckets
from duality.model.bank import StateBank
from duality.model.gaps import gaps
from duality.model.loss_config import LossConfig
from duality.model.objective import Objective
from duality.model.two_sided import ModelConfig, TwoSided

SECOND = 1_000_000


def made(which: str) -> TwoSided:
    torch.manual_seed(0)
    shape = {"hidden": 16, "dropout": 0.0}
    config = {"dim": 16, "time_gaps": which, "user_encoder": shape, "item_encoder": shape}
    model = TwoSided(10, ModelConfig.model_validate(config))
    for part in (model.user_gaps, model.item_gaps):
        if part is not None:
            torch.nn.init.normal_(part.vectors.weight)
    return model


def test_a_gap_is_that_to_the_row_before_in_the_same_history() -> None:
    times = np.array([5, 8, 1008, 3, 3]) * SECOND
    found = gaps(Layout(np.array([3, 2]), times), 5)
    assert found.tolist() == [0, *(buckets(torch.tensor([3, 1000]) * SECOND, BUCKETS) + 1).tolist(), 0, 1]
    assert gaps(Layout(np.array([3, 2])), 5).tolist() == [0] * 5
    assert gaps(None, 2).tolist() == [0, 0]


@pytest.mark.parametrize("which", ["users", "items", "both"])
def test_each_side_reads_its_own_gaps_and_learns_them(which: str) -> None:
    world, model = dataset(), made(which)
    torch.nn.init.normal_(model.item_head.weight)
    task = Objective(
        model,
        LossConfig(),
        *[StateBank(len(world.event_user), model.dim) for _ in range(2)],
        np.random.default_rng(0),
        rivals=rivals(world),
    )
    users, items = both_batches(world)
    sum(task.step(users, items, remake_users=False).values()).backward()
    for side, part in (("users", model.user_gaps), ("items", model.item_gaps)):
        assert (part is not None) == (which in (side, "both"))
        if part is not None:
            assert part.vectors.weight.grad.abs().sum() > 0


def test_a_later_event_changes_no_state_before_it() -> None:
    world, model = dataset(), made("both").eval()
    mask = everything(world)
    before = states_before_events(model, world, mask)
    after = user_states_after(model, world, user_histories(world, mask), model.item_table.detach())
    assert after.isfinite().all()
    moved = world.event_time.copy()
    at = int(np.argsort(moved)[len(moved) // 2])
    last = int(world.user_indptr[world.event_user[at] + 1]) - 1
    world.event_time = moved
    world.event_time[last] += 10**9 * SECOND
    again = states_before_events(model, world, mask)
    torch.testing.assert_close(again, before)
