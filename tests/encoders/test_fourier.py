"""The spectrum against the recurrence taken row by row."""

from __future__ import annotations

import numpy as np
import torch

from duality.encoders.base import Layout, packed_positions
from duality.encoders.fourier import Fourier, FourierConfig, Spectrum, recurrence

DIM = 8


def test_every_row_holds_the_damped_oscillations_of_its_own_history() -> None:
    torch.manual_seed(0)
    layout = Layout(np.array([1, 5, 9, 16, 2]))
    rows = torch.randn(layout.num_rows, DIM, dtype=torch.float64, requires_grad=True)
    turn = torch.complex(-torch.rand(DIM).double(), 3 * torch.rand(DIM).double()).exp()
    found = recurrence(rows, turn, packed_positions(layout, rows.device))
    expected, state = [], torch.zeros(DIM, dtype=torch.complex128)
    for row, position in zip(rows, layout.positions, strict=True):
        state = row + (0 if position == 0 else 1) * turn * state
        expected.append(state)
    torch.testing.assert_close(found, torch.stack(expected))
    ours, theirs = (
        torch.autograd.grad(torch.view_as_real(value).square().sum(), rows, retain_graph=True)[0]
        for value in (found, torch.stack(expected))
    )
    torch.testing.assert_close(ours, theirs)


def test_what_repeats_in_rhythm_answers_loudest_at_its_own_frequency() -> None:
    """A signal of period 4 in every dimension; frequencies from 0 to pi, all with the same long memory."""
    rows = torch.cos(torch.arange(400) * torch.pi / 2)[:, None].expand(-1, 5)
    frequency = torch.linspace(0, torch.pi, 5)
    turn = torch.complex(torch.full((5,), -0.02), frequency).exp()
    loud = recurrence(rows, turn, torch.arange(400))[-1].abs()
    assert int(loud.argmax()) == 2
    assert loud[2] > 5 * loud[[0, 1, 3, 4]].max()


def test_memories_last_and_the_spectrum_moves_the_state() -> None:
    torch.manual_seed(0)
    assert bool((Spectrum(DIM).decay.exp() > 0).all())
    encoder = Fourier(DIM, FourierConfig(hidden=8)).eval()
    rows, layout = torch.randn(6, DIM), Layout(np.array([6]))
    assert (encoder(rows, layout) - encoder.transformer(rows, layout)).abs().max() > 1e-3
