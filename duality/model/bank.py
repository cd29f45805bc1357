"""States of one side as they were just before each event, kept between batches.

A batch of items needs the users of its histories, most of whom are not in the batch. The bank
holds, for every event that it keeps, the last state computed for its user (or item) strictly before that
event. Event numbers are the time stamps: row e never holds anything of event e.

Cost:   2 bytes per kept event and dimension (float16), 5 per kept event and 4 per event beside, in
        memory or in files that the system pages.
Shapes: E events, K kept events, P rows, D dimensions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class StateBank:
    """float16 [K, D] states and float32 [K] log-partitions, indexed by event number.

    Args:
        num_events: E.
        dim: D.
        kept: int64 [K], the events worth a row; None keeps every event.
        folder: where the states lie as a file; None keeps them in memory.
    """

    def __init__(
        self, num_events: int, dim: int, *, kept: np.ndarray | None = None, folder: Path | None = None
    ) -> None:
        rows = num_events if kept is None else len(kept)
        self.states = _zeros((rows, dim), folder)
        self.log_partition = np.zeros(rows, np.float32)
        self.written = np.zeros(rows, bool)
        self._row: np.ndarray | None = None
        if kept is not None:
            self._row = np.full(num_events, -1, np.int32)
            self._row[kept] = np.arange(rows)

    def write(self, events: np.ndarray, states: Tensor, log_partition: Tensor | None = None) -> None:
        """Remember states float [P, D] (and log Z float [P]) of events int64 [P]; gradients stop.

        Events that the bank does not keep are passed over.
        """
        rows = events if self._row is None else self._row[events]
        chosen = np.flatnonzero(rows >= 0)
        rows = rows[chosen]
        self.states[rows] = states.detach().to("cpu", torch.float16).numpy()[chosen]
        self.written[rows] = True
        if log_partition is not None:
            self.log_partition[rows] = log_partition.detach().cpu().numpy()[chosen]

    def holds(self, events: np.ndarray) -> np.ndarray:
        """Whether a state was written for each event, bool [P]."""
        if self._row is None:
            return self.written[events]
        rows = self._row[events]
        return (rows >= 0) & self.written[rows]

    def read(self, events: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """States float32 [P, D] and log Z float32 [P] of events int64 [P] that the bank holds."""
        rows = events if self._row is None else self._row[events]
        states = torch.from_numpy(self.states[rows]).to(device, torch.float32)
        return states, torch.from_numpy(self.log_partition[rows]).to(device)


def _zeros(shape: tuple[int, int], folder: Path | None) -> np.ndarray:
    if folder is None:
        return np.zeros(shape, np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    # "w+" truncates: what an earlier run left is never read.
    return np.memmap(folder / "states.f16", np.float16, "w+", shape=shape)
