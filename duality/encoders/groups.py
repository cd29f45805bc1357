"""Sequences whose attention is computed in one call: equally long ones, and short ones of about one length, padded.

A call costs as much as the attention of some hundred rows, and a batch of histories has nearly as many lengths as
sequences: a few padded rows save more than they cost. Nothing else of a model is padded.

Shapes: n sequences of a group, L rows of its longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duality.encoders.base import Run

PADDED = 50  # rows that may be padded for a call that is saved
LONG = 1_000  # a run of that many rows is worth a call of its own


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbours of a packed batch.

    Attributes:
        first: first row.
        count: n.
        length: L.
        real: int64, which of n x L padded rows, oldest first, the packed ones are; None: all.
    """

    first: int
    count: int
    length: int
    real: Tensor | None = None


def groups_of(runs: list[Run]) -> list[Group]:
    """All sequences of a batch, in packed order."""
    found: list[list[Run]] = []
    for run in runs:
        if found and _fits(found[-1], run):
            found[-1].append(run)
        else:
            found.append([run])
    return [_group(some) for some in found]


def _fits(some: list[Run], run: Run) -> bool:
    everybody = [*some, run]
    if max(count * length for _, count, length in everybody) >= LONG:
        return False
    longest = max(length for _, _, length in everybody)
    return sum(count * (longest - length) for _, count, length in everybody) <= PADDED * len(some)


def _group(some: list[Run]) -> Group:
    first, count, length = some[0]
    if len(some) == 1:
        return Group(first, count, length)
    lengths = np.repeat([run[2] for run in some], [run[1] for run in some])
    longest = int(lengths.max())
    real = np.flatnonzero(np.arange(longest) < lengths[:, None])
    return Group(first, len(lengths), longest, torch.from_numpy(real))
