"""States of one side as they were just before each event, kept between batches.

A batch of items needs the users of its histories, most of whom are not in the batch. The bank
holds, for every event, the last state computed for its user (or item) strictly before that event.
Event numbers are the time stamps: row e never holds anything of event e.

Cost: 2 bytes per event and dimension (float16), 4 per event for log Z, in memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class StateBank:
    """float16 [E, D] states and float32 [E] log-partitions, indexed by event number."""

    def __init__(self, num_events: int, dim: int) -> None:
        self.states = np.zeros((num_events, dim), np.float16)
        self.log_partition = np.zeros(num_events, np.float32)

    def write(self, events: np.ndarray, states: Tensor, log_partition: Tensor | None = None) -> None:
        """Remember states float [P, D] (and log Z float [P]) of events int64 [P]; gradients stop."""
        self.states[events] = states.detach().to("cpu", torch.float16).numpy()
        if log_partition is not None:
            self.log_partition[events] = log_partition.detach().cpu().numpy()

    def read(self, events: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """States float32 [P, D] and log Z float32 [P] of events int64 [P]."""
        states = torch.from_numpy(self.states[events]).to(device, torch.float32)
        return states, torch.from_numpy(self.log_partition[events]).to(device)
