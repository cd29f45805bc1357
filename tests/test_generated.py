"""What generated scores are weighed by: expected arrivals equal counted ones, and the truth is found again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_worlds import dataset, everything, with_items

from duality import generated
from duality.data.histories import item_histories
from duality.embeddings import generated_items, packed_item_states, states_before_events
from duality.encoders.transformer import TransformerConfig
from duality.model.two_sided import ModelConfig, TwoSided


def small_model() -> TwoSided:
    torch.manual_seed(0)
    shape = TransformerConfig(hidden=16, dropout=0.0)
    return TwoSided(10, ModelConfig(dim=16, user_encoder=shape, item_encoder=shape)).eval()


@pytest.mark.parametrize("timed", [True, False])
def test_intervals_tile_the_log_and_count_every_arrival(timed: bool) -> None:
    world = dataset(users=30, events=200)
    if not timed:
        world.event_time = None
    histories = item_histories(world, everything(world))
    found = generated._intervals(world, everything(world), histories, np.random.default_rng(0))
    item = np.repeat(np.arange(10), histories.lengths + 1)
    np.testing.assert_allclose(np.bincount(item, found.length), world.num_events)
    assert found.arrived.sum() == len(histories.event)
    assert (found.length >= 0).all()
    for number in range(10):
        mine = item == number
        first, last = histories.indptr[number], histories.indptr[number + 1]
        assert found.users[mine].tolist() == list(range(histories.lengths[number] + 1))
        assert found.row[mine].tolist() == [-1, *range(first, last)]
        assert found.event[mine & found.arrived].tolist() == histories.event[first:last].tolist()


@pytest.mark.parametrize(
    ("name", "limits"), [("transformer", {}), ("sasrec", {"max_length": 4}), ("hstu", {"max_length": 4})]
)
@pytest.mark.parametrize("most", [0, 3, 40])
def test_few_items_alone_are_made_as_among_all(
    name: str, limits: dict[str, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = dataset(users=40, events=300)
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"dim": 16, "user_encoder": {"name": name, **limits}})
    model, mask = TwoSided(10, config).eval(), everything(world)
    mask[world.event_item == 3] = False
    mask[np.flatnonzero(world.event_item == 5)[3:]] = False
    monkeypatch.setattr(generated, "STATES", 20)
    monkeypatch.setattr(generated, "ARRIVALS", 4)
    users = item_histories(world, mask).lengths
    only = users <= most
    assert users[[3, 5]].tolist() == [0, 3]
    assert users.max() > 20
    vectors, known, weights = generated_items(model, world, mask)
    some, again, few = generated_items(model, world, mask, only)
    torch.testing.assert_close(some[only], vectors[only], atol=1e-5, rtol=0)
    assert (again == known).all()
    highest = generated.group_of(users[only]).max()
    np.testing.assert_allclose(few[: highest + 1], weights[: highest + 1], rtol=1e-4, atol=1e-4)


def test_after_weighing_expected_arrivals_are_the_counted_ones() -> None:
    world = dataset(users=40, events=300)
    model, mask = small_model(), everything(world)
    histories = item_histories(world, mask)
    before = states_before_events(model, world, mask)
    after = packed_item_states(model, world, histories, before)
    after = torch.cat((after, model.empty_item.detach()[None, : model.dim]))
    weights = generated.weigh(model, world, mask, histories, before, lambda rows: after[rows])
    found = generated._intervals(world, mask, histories, np.random.default_rng(0))
    states = before[np.flatnonzero(mask)]
    scores = (after[found.row] @ states.T).detach().double().numpy()
    partition = model.log_partition(states).double().numpy()
    group, fitted = generated.group_of(found.users), 0
    for number in range(generated.GROUPS):
        mine = group == number
        slope, share, level = weights[number].astype(float)
        if found.arrived[mine].sum() < generated.FEWEST:
            assert tuple(weights[number]) == generated.UNFITTED
            continue
        fitted += 1
        chances = np.exp(slope * scores[mine] - share * partition + level).mean(1)
        assert chances @ found.length[mine] == pytest.approx(found.arrived[mine].sum(), rel=1e-3)
    assert fitted >= 3


class Told:
    """A model of which only the log-partition is asked."""

    def log_partition(self, states: torch.Tensor) -> torch.Tensor:
        return 3.0 + states[:, 0]


def test_the_slope_partition_and_level_that_made_a_log_are_found_again() -> None:
    rng = np.random.default_rng(0)
    events, items, slope, partition, level = 40_000, 50, 0.5, 0.3, -5.4
    states, vectors = rng.uniform(-2, 2, (events, 2)), rng.uniform(-2, 2, (items, 2))
    chances = np.exp(slope * states @ vectors.T - partition * (3.0 + states[:, :1]) + level)
    bounds = chances.cumsum(1)
    assert bounds[:, -1].max() < 1
    item = (rng.random((events, 1)) > bounds).sum(1).astype(np.int32)
    other = item == items  # somebody did something else: each time another item
    item[other] += np.arange(other.sum(), dtype=np.int32)
    user = np.arange(events, dtype=np.int32)
    world = SimpleNamespace(event_user=user, event_time=user.astype(np.int64), num_users=events)
    world.num_items = int(item.max()) + 1
    world = with_items(world, item)
    histories = item_histories(world, everything(world))
    owner = np.repeat(np.arange(world.num_items), histories.lengths)
    after = vectors[np.append(owner, 0) % items]
    weights = generated.weigh(
        Told(),  # type: ignore[arg-type]
        world,  # type: ignore[arg-type]
        everything(world),
        histories,
        torch.from_numpy(states.astype(np.float32)),
        lambda rows: torch.from_numpy(after[rows].astype(np.float32)),
    )
    assert weights[-1] == pytest.approx((slope, partition, level), abs=0.1)


def test_a_few_arrivals_leave_slope_and_partition_near_one() -> None:
    scores, partition = torch.randn(20, 30), -torch.rand(30)
    arrived = torch.tensor((float(scores.mean()), float(partition.mean())), dtype=torch.float64)
    length = torch.zeros(20)
    few, many = (generated._fit(n, arrived, scores, partition, length)[0] for n in (1, 100_000))
    assert abs(many) < 0.1
    assert 0 < 1 - few < 0.1


@pytest.mark.parametrize("seed", range(6))
def test_wide_scores_are_weighed_too(seed: int) -> None:
    """Scores that differ by tens, as those of a model without a partition to keep them small: Newton's step alone ran away."""
    generator = torch.Generator().manual_seed(seed)
    items, users = (torch.randn(rows, 4, generator=generator) for rows in (40, 60))
    scores, partition = 15 * items @ users.T, -8 - torch.randn(60, generator=generator) / 2
    length = torch.rand(40, generator=generator).log()
    chances = torch.softmax((0.06 * scores + 0.8 * partition + length[:, None]).double().flatten(), 0).view(
        40, 60
    )
    arrived = torch.stack(((chances * scores).sum(), (chances * partition).sum()))
    slope, share, _ = generated._fit(100_000, arrived, scores, partition, length)
    assert slope == pytest.approx(0.06, abs=1e-3)
    assert share == pytest.approx(0.8, abs=0.01)


def test_groups_double() -> None:
    users = np.array([0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 5000])
    assert generated.group_of(users).tolist() == [0, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6]
