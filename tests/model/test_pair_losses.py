"""BCE, gBCE and BPR against loops in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from duality.model import pair_losses
from duality.model.pair_losses import gbce_power, pair_loss

ITEMS, ROWS, DIM, K, T = 30, 11, 6, 7.0, 0.75
KINDS = ("bce", "gbce", "bpr")


def tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(ROWS, DIM, generator=generator, dtype=dtype)
    table = torch.randn(ITEMS, DIM, generator=generator, dtype=dtype)
    return states, table, torch.randint(ITEMS, (ROWS,), generator=generator)


def by_hand(kind: str, states: np.ndarray, table: np.ndarray, own: np.ndarray) -> float:
    """The expectation over uniform negatives that are not the positive (weighed 1 / N each)."""
    power = gbce_power(K, ITEMS, T)
    total = 0.0
    for state, item in zip(states, own):
        score = float(state @ table[item])
        probability = 1 / (1 + math.exp(-score))
        if kind == "gbce":
            probability **= power
        loss = 0.0 if kind == "bpr" else -math.log(probability)
        for other in range(ITEMS):
            if other == item:
                continue
            negative = float(state @ table[other])
            if kind == "bpr":
                loss -= math.log(1 / (1 + math.exp(negative - score))) / ITEMS
            else:
                loss -= K * math.log(1 - 1 / (1 + math.exp(-negative))) / ITEMS
        total += loss
    return total / len(states)


def loss_of(
    kind: str,
    states: torch.Tensor,
    positives: torch.Tensor,
    candidates: torch.Tensor,
    columns: torch.Tensor,
) -> torch.Tensor:
    """Candidates stand for all items in equal shares."""
    return pair_loss(
        "bpr" if kind == "bpr" else "bce",
        states,
        positives,
        candidates,
        columns,
        candidates.new_full((len(candidates),), 1 / len(candidates)),
        per_positive=K,
        power=gbce_power(K, ITEMS, T) if kind == "gbce" else 1.0,
    )


def of_all(kind: str, states: torch.Tensor, table: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return loss_of(kind, states, table[own], table, own)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_a_loop_over_all_negatives(kind: str) -> None:
    states, table, own = tensors()
    expected = by_hand(kind, states.numpy(), table.numpy(), own.numpy())
    assert float(of_all(kind, states, table, own)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_and_do_not_depend_on_the_chunks(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, table, own = (part.requires_grad_() if part.is_floating_point() else part for part in tensors())
    assert torch.autograd.gradcheck(lambda s, t: of_all(kind, s, t, own), (states, table))
    whole = torch.autograd.grad(of_all(kind, states, table, own), (states, table))
    monkeypatch.setattr(pair_losses, "LEAST", 3)
    monkeypatch.setattr(pair_losses, "SCORES", {"cpu": 1})
    for a, b in zip(whole, torch.autograd.grad(of_all(kind, states, table, own), (states, table))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_candidates_give_the_same_on_average(kind: str) -> None:
    states, table, own = tensors()
    full, drawn, rng = float(of_all(kind, states, table, own)), [], np.random.default_rng(0)
    for _ in range(1500):
        some = torch.from_numpy(rng.permutation(ITEMS)[:8])
        place = (some[None] == own[:, None]).int()
        column = torch.where(place.any(1), place.argmax(1), -1)
        drawn.append(float(loss_of(kind, states, table[own], table[some], column)))
    assert abs(np.mean(drawn) - full) < 4 * np.std(drawn) / len(drawn) ** 0.5


def test_the_power_of_gbce() -> None:
    assert gbce_power(256, 3_417, 0.0) == pytest.approx(1.0)
    assert gbce_power(256, 3_417, 1.0) == pytest.approx(256 / 3_416)
    # A score s with its positive's probability raised to the power is log(1 / (sigma(s)^-power - 1)).
    power, score = gbce_power(256, 3_417, 0.75), 1.3
    moved = math.log(1 / ((1 + math.exp(-score)) ** power - 1))
    assert math.log1p(math.exp(-moved)) == pytest.approx(power * math.log1p(math.exp(-score)))
