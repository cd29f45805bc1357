"""The level of generated vectors: expected arrivals equal counted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_worlds import dataset, everything

from duality import generated
from duality.data.histories import item_histories
from duality.embeddings import packed_item_states, states_before_events
from duality.encoders.registry import EncoderConfig
from duality.model.two_sided import ModelConfig, TwoSided


def made(world: object) -> tuple[TwoSided, np.ndarray, object, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    shape = EncoderConfig(hidden=16, dropout=0.0)
    model = TwoSided(10, ModelConfig(dim=16, user_encoder=shape, item_encoder=shape)).eval()
    mask = everything(world)  # type: ignore[arg-type]
    histories = item_histories(world, mask)  # type: ignore[arg-type]
    before = states_before_events(model, world, mask)  # type: ignore[arg-type]
    return model, mask, histories, before, packed_item_states(model, histories, before)


@pytest.mark.parametrize("timed", [True, False])
def test_intervals_tile_the_log_and_count_every_arrival(timed: bool) -> None:
    world = dataset(users=30, events=200)
    if not timed:
        world.event_time = None
    histories = item_histories(world, everything(world))
    users, row, length, arrived = generated._intervals(
        world, everything(world), histories, np.random.default_rng(0)
    )
    item = np.repeat(np.arange(10), histories.lengths + 1)
    np.testing.assert_allclose(np.bincount(item, length), world.num_events)
    assert arrived.sum() == len(histories.event)
    assert (length >= 0).all()
    for number in range(10):
        mine = item == number
        assert users[mine].tolist() == list(range(histories.lengths[number] + 1))
        assert row[mine].tolist() == [-1, *range(histories.indptr[number], histories.indptr[number + 1])]


def test_after_levelling_expected_arrivals_are_the_counted_ones() -> None:
    world = dataset(users=40, events=300)
    model, mask, histories, before, after = made(world)
    after = after.clone()
    after[:, -1] = torch.randn(len(after))
    levels = generated.level(model, world, mask, histories, before, after)
    users, row, length, arrived = generated._intervals(world, mask, histories, np.random.default_rng(0))
    sampled = np.random.default_rng(0)
    generated._intervals(world, mask, histories, sampled)
    sampled.permutation(len(row))
    events = sampled.permutation(np.flatnonzero(mask))[: generated.STATES]
    states = before[torch.from_numpy(events)]
    vectors = torch.cat((after, model.empty_item[None]))[torch.from_numpy(row)]
    vectors, own_level = vectors[:, :-1], vectors[:, -1:]
    rate = (vectors @ states.T + own_level - model.log_partition(states)).exp().mean(1).detach().numpy()
    group = generated.group_of(users)
    for number in range(generated.GROUPS):
        mine = group == number
        if arrived[mine].sum() >= 10:
            expected = (np.exp(levels[number]) * rate * length)[mine].sum()
            assert expected == pytest.approx(arrived[mine].sum(), rel=1e-3)
        else:
            assert levels[number] == 0


def test_groups_double() -> None:
    users = np.array([0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 5000])
    assert generated.group_of(users).tolist() == [0, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6]
