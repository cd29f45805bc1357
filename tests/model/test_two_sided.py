"""Time never runs backwards, on either side, and gradients cross from one to the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_worlds import batch, both_batches, dataset, everything, rivals, with_items

from duality.data.histories import first_meetings, item_histories, user_histories
from duality.embeddings import packed_item_states, states_before_events
from duality.encoders.base import Layout
from duality.encoders.transformer import TransformerConfig
from duality.model.bank import StateBank
from duality.model.live import Live
from duality.model.loss_config import LossConfig
from duality.model.objective import Objective
from duality.model.two_sided import ModelConfig, TwoSided

SHAPE = TransformerConfig(hidden=16, dropout=0.0)


def small_model(items: int = 10, **encoders: object) -> TwoSided:
    torch.manual_seed(0)
    shapes = {"user_encoder": SHAPE, "item_encoder": SHAPE, **encoders}
    model = TwoSided(items, ModelConfig.model_validate({"dim": 16, **shapes}))
    model.population_mean.normal_()
    return model


def test_rows_of_items_begin_as_spread_as_asked() -> None:
    by_itself, asked = (
        small_model(2_000, **chosen).item_table.std().item() for chosen in ({}, {"item_std": 0.02})
    )
    assert by_itself == pytest.approx(0.25, rel=0.02)
    assert asked == pytest.approx(0.02, rel=0.02)


def test_a_shared_encoder_is_one_set_of_weights_that_both_sides_train() -> None:
    torch.manual_seed(0)
    shape = ModelConfig(dim=16, user_encoder=SHAPE, item_encoder=SHAPE, shared_encoder=True)
    shared, apart = TwoSided(10, shape), small_model()
    names = {name.split(".")[0] for name, _ in shared.named_parameters()}
    assert names == {name.split(".")[0] for name, _ in apart.named_parameters()} - {"item_encoder"}
    layout = Layout(np.array([4]))
    with torch.no_grad():
        shared.item_head.weight.copy_(torch.eye(16))
    shared.item_states(torch.randn(4, 16), layout)[:, :-1].sum().backward()
    grads = [parameter.grad for parameter in shared.user_encoder.parameters()]
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in grads[:2])


def objective(model: TwoSided, world: object, **weights: float) -> Objective:
    events = len(world.event_user)  # type: ignore[attr-defined]
    banks = [StateBank(events, model.dim) for _ in range(2)]
    return Objective(model, LossConfig(**weights), *banks, np.random.default_rng(0), rivals=rivals(world))


@given(st.integers(0, 50), st.data())
@settings(max_examples=30, deadline=None)
def test_a_changed_event_changes_no_earlier_state(seed: int, data: st.DataObject) -> None:
    world, model = dataset(seed=seed), small_model().eval()
    at = data.draw(st.integers(0, world.num_events - 1))
    item = world.event_item.copy()
    item[at] = (item[at] + data.draw(st.integers(1, 9))) % 10
    other = with_items(world, item)
    states = [_states(model, w) for w in (world, other)]
    moment = world.event_time[at]
    for event in np.flatnonzero(world.event_time <= moment):
        for side in ("user", "item"):
            first, second = (s[side].get(event) for s in states)
            if first is not None and second is not None and event != at:
                torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    # The query vectors of the changed event itself: its own target reaches neither.
    torch.testing.assert_close(states[0]["user"][at], states[1]["user"][at], atol=1e-5, rtol=0)


def _states(model: TwoSided, world: object) -> dict[str, dict[int, torch.Tensor]]:
    """State of the user and of the item strictly before each event."""
    mask = everything(world)  # type: ignore[arg-type]
    before = states_before_events(model, world, mask)  # type: ignore[arg-type]
    histories = item_histories(world, mask)  # type: ignore[arg-type]
    after = packed_item_states(model, world, histories, before)
    item = {}
    for start, end in zip(histories.indptr[:-1], histories.indptr[1:], strict=True):
        for place in range(start, end):
            item[int(histories.event[place])] = after[place - 1] if place > start else model.empty_item[:-2]
    return {"user": dict(enumerate(before)), "item": item}


def test_the_user_of_an_event_does_not_reach_the_item_state_before_it() -> None:
    world, model = dataset(seed=3), small_model().eval()
    mask = everything(world)
    histories = item_histories(world, mask)
    before = states_before_events(model, world, mask)
    place = int(histories.indptr[2]) + 2
    other = before.clone()
    other[histories.event[place]] *= -1.0
    one, two = (packed_item_states(model, world, histories, b) for b in (before, other))
    torch.testing.assert_close(one[:place], two[:place], atol=1e-6, rtol=0)
    assert not torch.allclose(one[place], two[place], atol=1e-3)


def test_repeats_stay_out_of_item_histories() -> None:
    world = dataset(seed=1, users=4, items=5, events=60)
    histories = item_histories(world, everything(world))
    pairs = set()
    for event in histories.event:
        pair = (world.event_user[event], world.event_item[event])
        assert pair not in pairs
        pairs.add(pair)
        earlier = (world.event_user == pair[0]) & (world.event_item == pair[1])
        assert event == np.flatnonzero(earlier)[0]
    assert len(pairs) < world.num_events
    assert first_meetings(world).sum() == len(pairs)


def test_item_side_gradients_reach_f_and_the_item_table() -> None:
    world, model = dataset(), small_model()
    users, items = both_batches(world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = objective(model, world, next_item=0.0).step(users, items, remake_users=True)
    assert "next_item" not in losses
    sum(losses.values()).backward()
    optimizer.step()
    for name in (
        "item_table",
        "user_encoder.blocks.0.attention.value.weight",
        "empty_user",
        "item_head.weight",
    ):
        moved = dict(model.named_parameters())[name].detach() - before[name]
        assert moved.abs().sum() > 0, name


@pytest.mark.parametrize("term", ["next_user", "items_compete", "cycle_item"])
def test_each_generated_term_alone_reaches_the_live_users(term: str) -> None:
    """Weight decay moves weights without any gradient, so gradients are looked at directly."""
    world, model = dataset(), small_model()
    off = dict.fromkeys(
        ("next_item", "users_compete", "next_user", "items_compete", "cycle_item", "cycle_user"), 0.0
    )
    losses = objective(model, world, **{**off, term: 1.0}).step(*both_batches(world), remake_users=True)
    losses[term].backward()
    assert set(losses) == {term}
    for parameter in (model.item_table, model.user_encoder.blocks[0].attention.value.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_without_live_users_the_item_side_reaches_the_item_encoder_alone() -> None:
    world, model = dataset(), small_model()
    task = objective(model, world, next_item=0.0, users_compete=0.0, cycle_user=0.0)
    task.config = LossConfig(next_item=0.0, users_compete=0.0, cycle_user=0.0, live_users=False)
    sum(task.step(*both_batches(world), remake_users=True).values()).backward()
    assert model.item_table.grad is None or not model.item_table.grad.abs().sum()
    assert all(p.grad is None or not p.grad.abs().sum() for p in model.user_encoder.parameters())
    assert model.item_pool.weight.grad is not None
    assert model.item_pool.weight.grad.abs().sum() > 0


def test_bank_rows_are_the_states_strictly_before_each_event() -> None:
    world, model = dataset(), small_model()
    task = objective(model, world)
    users, items = both_batches(world)
    task.step(users, items, remake_users=False)
    expected = states_before_events(model, world, everything(world))
    np.testing.assert_allclose(task.user_bank.states[users.events], expected[users.events], atol=5e-3)
    generated = _states(model, world)["item"]
    known = items.events[items.layout.positions > 0]
    np.testing.assert_array_equal(task.item_bank.holds(items.events), items.layout.positions > 0)
    for event in known:
        np.testing.assert_allclose(task.item_bank.states[event], generated[event].detach(), atol=5e-3)


@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "transformer", "hidden": 16},
        {"name": "sasrec", "max_length": 6},
        {"name": "sasrec", "max_length": 6, "padding": "slots"},
        {"name": "sasrec", "max_length": 6, "positions": "oldest"},
        {"name": "denoiser", "max_length": 6},
        {"name": "hstu", "max_length": 6, "positions": "slots"},
    ],
    ids=lambda encoder: "-".join(str(value) for value in encoder.values()),
)
def test_the_newest_event_is_asked_in_training_as_it_is_asked_in_use(encoder: dict[str, object]) -> None:
    model = small_model(user_encoder={**encoder, "dropout": 0.0}).eval()
    items, layout = torch.randn(12, 16), Layout(np.array([1, 4, 7]))
    before = model.users_before(items, layout, None)
    starts, ends = layout.offsets[:-1], layout.last_rows
    torch.testing.assert_close(before[starts], model.empty_user.expand(3, -1))
    for start, end in zip(starts[1:], ends[1:], strict=True):
        alone = model.user_states(items[start:end], Layout(np.array([end - start])))
        torch.testing.assert_close(before[end], alone[-1])


def test_the_newest_slot_is_trained_where_slots_count_from_the_newest_row() -> None:
    model = small_model(user_encoder={"name": "sasrec", "max_length": 6, "dropout": 0.0})
    model.users_before(torch.randn(11, 16), Layout(np.array([5, 6])), None).square().sum().backward()
    grad = model.user_encoder.get_parameter("slots.weight").grad
    assert grad is not None
    assert (grad.abs().sum(1) > 0).tolist() == [False, True, True, True, True, True]


def test_a_partial_user_batch_mixes_live_and_banked_users() -> None:
    world, model = dataset(), small_model()
    task = objective(model, world)
    everybody, items = both_batches(world)
    task.step(everybody, items, remake_users=False)
    some = batch(world, user_histories(world, everything(world)), np.arange(3), "users")
    rows = np.arange(len(some.events))
    live = Live(rows, some.events, torch.full((len(rows), model.dim), 7.0))
    states, _ = live.over(task.user_bank, items.events)
    is_live = np.isin(items.events, some.events)
    assert 0 < is_live.sum() < len(is_live)
    assert (states[torch.from_numpy(is_live)] == 7.0).all()
    assert (states[torch.from_numpy(~is_live)] != 7.0).any(1).all()


@pytest.mark.parametrize("side", ["user_encoder", "item_encoder"])
def test_an_encoder_that_sees_both_sides_is_given_prefixes_alone(side: str) -> None:
    world = dataset()
    model = small_model(**{side: {"name": "bert4rec", "hidden": 16, "dropout": 0.0, "max_length": 12}})
    task = objective(model, world, queries=9, item_queries=9)
    users, items = both_batches(world)
    task.step(users, items, remake_users=False)
    losses = task.step(users, items, remake_users=True)
    assert "cycle_user" in losses
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in getattr(model, side).parameters())
    bank = task.user_bank if side == "user_encoder" else task.item_bank
    written = users.events[task.user_bank.holds(users.events)]
    expected = states_before_events(model, world, everything(world))
    if side == "user_encoder":
        assert 9 <= len(written) <= 18 < len(users.events)
        # The mean that states are measured from moves, the users' states do not depend on it.
        np.testing.assert_allclose(bank.states[written], expected[written], atol=5e-3)
    else:
        held = items.events[bank.holds(items.events)]
        generated = packed_item_states(model, world, item_histories(world, everything(world)), expected)
        place = {int(e): n for n, e in enumerate(item_histories(world, everything(world)).event)}
        for event in held:
            before = generated[place[int(event)] - 1]
            np.testing.assert_allclose(bank.states[event], before.detach(), atol=5e-3)
        assert 0 < len(held) <= 18


@pytest.mark.parametrize("side", ["user_encoder", "item_encoder"])
def test_a_step_with_opposite_noise_draws_as_one_without(side: str) -> None:
    world = dataset()
    model = small_model(**{side: {"name": "denoiser", "max_length": 12, "slope_penalty": 0.0}})
    task = objective(model, world)
    users, items = both_batches(world)
    torch.manual_seed(1)
    losses = task.step(users, items, remake_users=False)
    chances = task.rng.random(), torch.rand(1)
    encoder = getattr(model, side)
    (gradient,) = torch.autograd.grad(losses["noise"], encoder.phi, retain_graph=True)
    assert gradient.abs().sum() > 0
    encoder.noisy = False
    again = objective(model, world)
    torch.manual_seed(1)
    torch.rand_like(encoder.phi)  # what the draw took
    plain = again.step(users, items, remake_users=False)
    assert set(losses) == {*plain, "noise"}
    assert (again.rng.random(), torch.rand(1)) == chances
