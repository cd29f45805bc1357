"""States just before the events of a batch, with gradients, and what the bank has where there are none.

Shapes: P rows of the batch, W of them with a state, R events asked for, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duality.model.bank import StateBank


@dataclass(frozen=True, eq=False)
class Live:
    """Of all rows, or of some where the encoder is not causal and each state costs a pass over its prefix.

    Attributes:
        row: int64 [W], rows of the batch, ascending.
        event: int64 [W], their events.
        state: float [W, D].
    """

    row: np.ndarray
    event: np.ndarray
    state: Tensor

    def at(self, rows: np.ndarray) -> Tensor:
        """States of rows of the batch that have one, float [R, D]."""
        return self.state[np.searchsorted(self.row, rows)]

    def over(self, bank: StateBank, events: np.ndarray) -> tuple[Tensor, Tensor]:
        """States [R, D] and log Z [R] before `events`: from the bank, live where there are any."""
        device = self.state.device
        states, log_partition = bank.read(events, device)
        order = np.argsort(self.event)
        found = order[np.searchsorted(self.event, events, sorter=order).clip(max=len(order) - 1)]
        hit = np.flatnonzero(self.event[found] == events)
        live = self.state[torch.from_numpy(found[hit]).to(device), : states.shape[1]]
        return states.index_copy(0, torch.from_numpy(hit).to(device), live), log_partition
