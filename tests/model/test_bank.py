"""The bank of states: what it keeps comes back, what it does not is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from duality.model.bank import StateBank

CPU = torch.device("cpu")


@pytest.mark.parametrize("mapped", [False, True])
def test_a_bank_keeps_the_events_it_was_made_for(tmp_path: Path, mapped: bool) -> None:
    kept = np.array([7, 2, 5])
    bank = StateBank(10, 4, kept=kept, folder=tmp_path / "bank" if mapped else None)
    assert bank.states.shape == (3, 4)
    states, log_z = torch.randn(4, 4), torch.randn(4)
    events = np.array([2, 3, 7, 9])
    bank.write(events, states, log_z)
    assert bank.holds(np.arange(10)).nonzero()[0].tolist() == [2, 7]
    found, partition = bank.read(np.array([7, 2]), CPU)
    torch.testing.assert_close(found, states[[2, 0]], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(partition, log_z[[2, 0]])
    assert (tmp_path / "bank/states.f16").exists() == mapped


def test_a_bank_of_everything_is_empty_until_written() -> None:
    bank = StateBank(5, 4)
    assert not bank.holds(np.arange(5)).any()
    bank.write(np.array([1]), torch.ones(1, 4))
    assert bank.holds(np.arange(5)).tolist() == [False, True, False, False, False]


def test_a_mapped_bank_forgets_what_an_earlier_run_left(tmp_path: Path) -> None:
    StateBank(3, 2, folder=tmp_path).write(np.arange(3), torch.ones(3, 2))
    assert not StateBank(3, 2, folder=tmp_path).states.any()
