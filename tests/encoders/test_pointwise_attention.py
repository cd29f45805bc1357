"""HSTU's attention with stored weights against the same written out for autograd: states and all gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duality.encoders import attention, groups, hstu
from duality.encoders.base import Layout, prefix_states
from duality.encoders.hstu import HSTU, HSTUConfig

LENGTHS = np.array([1, 1, 3, 3, 3, 7, 9, 20, 31])
MINUTE = 60_000_000


def layout(*, timed: bool, asked: bool = False) -> Layout:
    gaps = np.random.default_rng(0).integers(1, 10_000, size=LENGTHS.sum()) * MINUTE
    times = np.concatenate([np.cumsum(some) for some in np.split(gaps, np.cumsum(LENGTHS)[:-1])])
    found = Layout(LENGTHS, times if timed else None)
    return found.asked_in_turn(found.times[found.last_rows] + MINUTE) if asked else found


def outcome(model: HSTU, rows: torch.Tensor, of: Layout) -> list[torch.Tensor]:
    """States, and gradients of the rows and of every weight."""
    rows = rows.clone().requires_grad_()
    states = model(rows, of)
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    wanted = [rows, *(weight for weight in model.parameters())]
    return [states.detach(), *torch.autograd.grad((states * weights).sum(), wanted, allow_unused=True)]


@pytest.mark.parametrize("known", ["nothing", "past", "request"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    "shape", [{"max_length": 16}, {"max_length": 50}, {"max_length": 9, "sliding": True}]
)
def test_states_and_gradients_are_those_of_the_plain_sum(
    known: str, heads: int, shape: dict[str, int | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = HSTU(8, HSTUConfig(num_heads=heads, dropout=0.0, **shape)).double()
    with torch.no_grad():  # as drawn, biases are too small for a wrong one to show
        for weight in model.parameters():
            weight.normal_(std=0.5)
    rows = torch.randn(int(LENGTHS.sum()), 8, dtype=torch.float64)
    of = layout(timed=known != "nothing", asked=known == "request")
    monkeypatch.setattr(groups, "BLOCK", 6)
    found = outcome(model, rows, of)
    monkeypatch.setattr(hstu, "stores_weights", lambda *_: False)
    expected = outcome(model, rows, of)
    monkeypatch.setattr(attention, "AT_ONCE", 5)  # a block of rows at a time, made again for the gradients
    monkeypatch.setattr(attention, "BLOCK", 4)
    for one, other in zip(outcome(model, rows, of), expected, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_short_sequences_share_calls() -> None:
    """What the comparison above compares: a group whose sequences are padded, and one block of rows after another."""
    found = groups.groups_of(layout(timed=True))
    assert any(group.real is not None for group in found)


def test_states_in_float32_are_those_in_float64() -> None:
    torch.manual_seed(0)
    model = HSTU(8, HSTUConfig(dropout=0.0))
    rows, of = torch.randn(int(LENGTHS.sum()), 8), layout(timed=True)
    single = model(rows, of)
    torch.testing.assert_close(single.double(), model.double()(rows.double(), of), rtol=1e-4, atol=1e-5)


def test_a_row_of_sliding_layers_sees_what_the_last_row_of_a_cut_history_sees() -> None:
    """One layer over the newest rows is the published one; further layers see through what these rows saw."""
    torch.manual_seed(0)
    cut = HSTU(8, HSTUConfig(num_blocks=1, max_length=6, dropout=0.0)).double()
    sliding = HSTU(8, HSTUConfig(num_blocks=1, max_length=6, sliding=True, dropout=0.0)).double()
    sliding.load_state_dict(cut.state_dict())
    rows, of = torch.randn(int(LENGTHS.sum()), 8, dtype=torch.float64), layout(timed=True)
    torch.testing.assert_close(sliding(rows, of), prefix_states(cut, rows, of))
    assert sliding.seen(of) is of
