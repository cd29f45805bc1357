"""Gates without a gradient learn from two opposite draws; the slope of a layer is estimated without bias."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from duality.encoders.base import Layout
from duality.encoders.denoiser import RecDenoiser, RecDenoiserConfig

DIM, TWO = 4, Layout(np.array([2]))


def made(**settings: float) -> RecDenoiser:
    torch.manual_seed(0)
    shape = {"num_blocks": 1, "dropout": 0.0, "max_length": 2, **settings}
    encoder = RecDenoiser(DIM, RecDenoiserConfig.model_validate(shape)).double()
    with torch.no_grad():
        encoder.phi.copy_(torch.tensor([[[0.3, 0.0], [-0.7, 1.1]]]))
    return encoder.train()


def loss_of(encoder: RecDenoiser, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (encoder(rows, TWO) * weights).sum()


def test_opposite_draws_give_the_enumerated_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = made(open_penalty=0.0, slope_penalty=0.0)
    rows, weights = torch.randn(2, DIM).double(), torch.randn(2, DIM).double()
    places = [(0, 0), (1, 0), (1, 1)]
    drawn = []
    with torch.no_grad():
        for _ in range(3000):
            encoder.draw()
            first = loss_of(encoder, rows, weights)
            encoder.turn()
            second = loss_of(encoder, rows, weights)
            assert encoder.uniform is not None
            drawn.append([float((first - second) * (encoder.uniform[0, i, j] - 0.5)) for i, j in places])
    estimate, error = np.mean(drawn, 0), np.std(drawn, 0) / len(drawn) ** 0.5

    phi = encoder.phi.detach().clone().requires_grad_()
    chance, expected = phi[0].sigmoid(), torch.zeros((), dtype=torch.float64)
    for gates in itertools.product((0, 1), repeat=3):
        opened = torch.zeros(1, 2, 2, dtype=torch.bool)
        share = torch.ones((), dtype=torch.float64)
        for place, gate in zip(places, gates, strict=True):
            opened[0][place] = bool(gate)
            share = share * (chance[place] if gate else 1 - chance[place])
        monkeypatch.setattr(encoder, "gates", lambda opened=opened: opened)
        expected = expected + share * loss_of(encoder, rows, weights).detach()
    (exact,) = torch.autograd.grad(expected, phi)
    for place, mean, spread in zip(places, estimate, error, strict=True):
        assert abs(mean - float(exact[0][place])) < 4 * spread, place
    assert np.abs(estimate).max() > 8 * error.min()


def test_the_penalty_hands_phi_that_gradient() -> None:
    encoder = made(open_penalty=0.5, slope_penalty=0.0)
    encoder.draw()
    (gradient,) = torch.autograd.grad(encoder.penalty(torch.tensor(3.0)), encoder.phi)
    below, chance = torch.ones(2, 2).tril().bool(), encoder.phi.detach().sigmoid()
    assert encoder.uniform is not None
    wanted = 3.0 * (encoder.uniform - 0.5) + 0.5 * chance * (1 - chance) / 3 * below
    torch.testing.assert_close(gradient, wanted)


def test_in_use_a_gate_is_open_where_that_is_likelier() -> None:
    encoder = made().eval()
    assert encoder.gates()[0].tolist() == [[True, False], [False, True]]
    query, key, value = torch.randn(3, 1, 1, 2, DIM).double().unbind()
    found = encoder._gated(encoder.gates()[0], query, key, value, 0)[0, 0]
    second = (query[0, 0] @ key[0, 0].T / DIM**0.5)[1]
    torch.testing.assert_close(found[0], value[0, 0, 0])
    # The share of a closed gate goes to nobody.
    torch.testing.assert_close(found[1], second.softmax(0)[1] * value[0, 0, 1])


def test_the_slope_is_the_norm_of_the_jacobian_on_average() -> None:
    encoder = made(slope_penalty=1.0, open_penalty=0.0)
    encoder.draw()
    rows, found = torch.randn(2, DIM).double(), []
    for _ in range(2000):
        encoder.slopes = []
        loss_of(encoder, rows, torch.ones(2, DIM).double())
        found.append(float(encoder.slopes[0].detach()))
    entered = encoder.enter(rows, encoder.positions_of(TWO, rows.device))[0].detach()
    block, gates = encoder.blocks[0], encoder.gates()[0]
    exact = torch.autograd.functional.jacobian(lambda x: encoder._layer(block, x, TWO, gates), entered)
    expected = float(exact.square().sum()) / 2
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / len(found) ** 0.5
    encoder.slopes = []
    loss_of(encoder, rows, torch.ones(2, DIM).double())
    encoder.penalty(torch.tensor(0.0)).backward()
    assert encoder.blocks[0].query.weight.grad is not None
    assert encoder.blocks[0].query.weight.grad.abs().sum() > 0
