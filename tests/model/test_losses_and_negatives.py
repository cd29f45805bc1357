"""Losses against brute force in double precision; negatives against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_worlds import both_batches, dataset, rivals

from duality.model.batch import forbidden_users, met_owner_by_member
from duality.model.losses import (
    LEAST,
    SCORES,
    competition_loss,
    cycle_loss,
    log_partition,
    partition_among,
    softmax_loss,
)
from duality.model.rivals import REACH, Rivals


def brute_softmax(
    q: torch.Tensor, p: torch.Tensor, c: torch.Tensor, columns: torch.Tensor, offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    losses, totals = [], []
    for row in range(len(q)):
        others = [m for m in range(len(c)) if m != int(columns[row])]
        scores = torch.stack([q[row] @ p[row], *(q[row] @ c[m] + offset for m in others)])
        totals.append(scores.logsumexp(0))
        losses.append(totals[-1] - scores[0])
    return torch.stack(losses).mean(), torch.stack(totals)


@pytest.mark.parametrize(("rows", "size"), [(5, 1.0), (2 * LEAST + 3, 1.0), (40, 60.0)])
def test_softmax_loss_and_gradients_match_brute_force(
    rows: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "cpu", 1)
    torch.manual_seed(0)
    tensors = [(size * torch.randn(n, 4, dtype=torch.float64)).requires_grad_() for n in (rows, rows, 7)]
    columns = torch.randint(-1, 7, (rows,))
    loss, total = softmax_loss(*tensors, columns, offset=0.3)
    brute, brute_total = brute_softmax(*tensors, columns, 0.3)
    torch.testing.assert_close(loss, brute)
    torch.testing.assert_close(total, brute_total)
    for ours, theirs in zip(
        torch.autograd.grad(2 * loss, tensors), torch.autograd.grad(2 * brute, tensors), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("trust", [0.7, -0.3])
def test_rows_weigh_what_their_items_probability_says(trust: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "cpu", 1)
    torch.manual_seed(0)
    rows = 2 * LEAST + 3
    tensors = [torch.randn(n, 4, dtype=torch.float64).requires_grad_() for n in (rows, rows, 7)]
    columns = torch.randint(-1, 7, (rows,))
    loss, _ = softmax_loss(*tensors, columns, trust=trust)
    _, total = brute_softmax(*tensors, columns, 0.0)
    each = total - (tensors[0] * tensors[1]).sum(1)
    weights = (-each.detach()).exp() ** trust
    expected = (weights * each).sum() / weights.sum()
    torch.testing.assert_close(loss, expected)
    assert float((weights / weights.mean() - 1).abs().max()) > 0.5
    for ours, theirs in zip(
        torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("size", "scores"), [(3, 1 << 20), (8, 1 << 20), (2 * LEAST + 3, 1)])
@pytest.mark.parametrize("more", [False, True])
def test_a_competition_and_its_gradients_match_their_definition(
    size: int, scores: int, more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "cpu", scores)
    torch.manual_seed(size)
    shapes = [(size, 4), (size, 4), (size,), (size,)]
    queries, candidates, level, rest = given = [
        (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_() for shape in shapes
    ]
    forbidden = torch.rand(size, size) < 0.4
    forbidden[1] = True  # nobody else competes there
    everything = queries @ candidates.T + (level if more else 0)
    wanted = [m for m in (everything, rest[:, None]) if more or m is everything]
    expected = []
    for row in range(size):
        allowed = [m for m in range(size) if m == row or not forbidden[row, m]]
        asked = torch.cat([everything[row, allowed], *(w[row] for w in wanted[1:])])
        expected.append(asked.logsumexp(0) - everything[row, row])
    extra = {"level": level, "rest": rest} if more else {}
    found, brute = competition_loss(queries, candidates, forbidden, **extra), torch.stack(expected).mean()
    torch.testing.assert_close(found, brute)
    moved = given if more else given[:2]
    for ours, theirs in zip(*(torch.autograd.grad(2 * x, moved) for x in (found, brute)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scores", [1, 20, 1 << 20])
def test_the_log_partition_is_that_of_all_candidates_however_it_is_cut(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "cpu", scores)
    states, candidates = 30 * torch.randn(11, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(log_partition(states, candidates), (states @ candidates.T).logsumexp(1))
    assert log_partition(states[:0], candidates).shape == (0,)


def test_cycle_loss_is_small_for_a_perfect_round_trip_and_log_m_by_chance() -> None:
    original = torch.eye(8)
    targets = torch.arange(8)
    assert cycle_loss(3 * original, original, original, targets, temperature=0.07) < 1e-4
    by_chance = cycle_loss(torch.ones(8, 8), original, original, targets, temperature=0.07)
    torch.testing.assert_close(by_chance, torch.tensor(np.log(8.0), dtype=torch.float32))
    rebuilt = torch.randn(8, 8, requires_grad=True)
    table = torch.randn(8, 8, requires_grad=True)
    cycle_loss(rebuilt, table, table, targets, temperature=0.07).backward()
    assert rebuilt.grad is not None
    assert table.grad is None
    with pytest.raises(ValueError, match="temperature"):
        cycle_loss(original, original, original, targets, temperature=0.0)


def test_a_cycle_among_drawn_items_counts_the_original_once_whether_or_not_it_was_drawn() -> None:
    rebuilt, table = torch.randn(3, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    drawn, original = table[[0, 2, 4, 6]], table[[2, 7, 6]]
    columns = torch.tensor([1, -1, 3])
    found = cycle_loss(rebuilt, original, drawn, columns, temperature=0.1, offset=0.5)
    cosine = torch.nn.functional.cosine_similarity
    expected = []
    for row in range(3):
        own = cosine(rebuilt[row], original[row], dim=0) / 0.1
        others = [
            cosine(rebuilt[row], drawn[m], dim=0) / 0.1 + 0.5 for m in range(4) if m != int(columns[row])
        ]
        expected.append(torch.stack([own, *others]).logsumexp(0) - own)
    torch.testing.assert_close(found, torch.stack(expected).mean())


@pytest.mark.parametrize("scores", [1, 1 << 20])
def test_a_partition_among_candidates_and_its_slope_however_it_is_cut(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCORES, "cpu", scores)
    queries = torch.randn(300, 4, dtype=torch.float64, requires_grad=True)
    candidates = (3 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    columns, offset = torch.arange(300) % 8 - 1, torch.randn(7, dtype=torch.float64)
    found = partition_among(queries, candidates, columns, offset)
    allowed = torch.arange(7) != columns[:, None]
    expected = (queries @ candidates.T + offset).masked_fill(~allowed, -torch.inf).logsumexp(1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(300, dtype=torch.float64)
    of = (queries, candidates)
    for ours, theirs in zip(
        *(torch.autograd.grad((weights * value).sum(), of) for value in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@given(st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_negative_users_never_met_the_item_and_are_not_from_the_future(seed: int) -> None:
    world = dataset(seed=seed)
    met = {(int(u), int(i)) for u, i in zip(world.event_user, world.event_item, strict=True)}
    users, _ = both_batches(world)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(users.events))[:20]
    forbidden = forbidden_users(users, rows, met_owner_by_member(users, rows))
    event = users.events[rows]
    for q in range(len(rows)):
        for m in range(len(rows)):
            user, item = int(world.event_user[event[m]]), int(world.event_item[event[q]])
            later = world.event_time[event[m]] > world.event_time[event[q]]
            assert forbidden[q, m] == ((user, item) in met or later)


@given(st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_rivals_act_near_the_query_and_never_met_the_item(seed: int) -> None:
    world = dataset(seed=seed)
    met = {(int(u), int(i)) for u, i in zip(world.event_user, world.event_item, strict=True)}
    rng = np.random.default_rng(seed)
    events = rng.permutation(world.num_events)[:22]
    draw = rivals(world).draw(events, world.event_item[events].astype(np.int64), 4, 6, rng)
    assert draw.query.shape == (4, 5)
    assert len(np.unique(draw.query)) == 20
    latest = world.event_time[events[draw.query]].max(axis=1)
    assert (np.diff(latest) >= 0).all()
    for group, query, rival in np.ndindex(draw.met.shape):
        user = int(world.event_user[draw.event[group, rival]])
        item = int(world.event_item[events[draw.query[group, query]]])
        assert draw.met[group, query, rival] == ((user, item) in met)


def test_rivals_come_from_the_moment_that_is_asked_about() -> None:
    events = 20_000
    time = np.arange(events) * 10
    user, item = np.arange(events, dtype=np.int32), np.zeros(events, np.int32)
    asked = np.array([50, 51, 15_000, 15_001])
    made = Rivals(user, item, time, np.arange(events), 1)
    draw = made.draw(asked, np.zeros(4, np.int64), 2, 500, np.random.default_rng(0))
    assert draw.event[0].max() <= 51 + REACH < 15_000 - REACH <= draw.event[1].min()


@given(st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_who_met_what_is_read_off_the_training_events(seed: int) -> None:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 9, 30).astype(np.int32), rng.integers(0, 7, 30).astype(np.int32)
    train = np.flatnonzero(rng.random(30) < 0.6)
    pairs = {(int(user[event]), int(item[event])) for event in train}
    users, items = rng.integers(0, 9, 11).astype(np.int32), rng.integers(0, 7, 5)
    found = Rivals(user, item, None, train, 7).met_among(users, items)
    assert found.tolist() == [[(u, i) in pairs for i in items.tolist()] for u in users.tolist()]
