"""Sequences whose attention is computed in one call: equally long ones, and short ones of about one length, padded.

A call costs as much as the attention of some hundred rows, and a batch of histories has nearly as many lengths as
sequences: a few padded rows save more than they cost. Nothing else of a model is padded.

Shapes: n sequences of a group, L rows of its longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from duality.encoders.base import Layout, Run

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


@lru_cache(maxsize=4)
def groups_of(layout: Layout) -> list[Group]:
    """All sequences of a batch, in packed order; every block of an encoder asks for the same."""
    found: list[list[Run]] = []
    room, sequences, rows, longest = -1, 0, 0, 0  # of the last group; a run of LONG rows leaves no room
    for run in layout.runs:
        _, count, length = run
        sequences, rows, longest = sequences + count, rows + count * length, max(longest, length)
        if count * length < LONG and sequences * longest - rows <= room:
            found[-1].append(run)
            room += PADDED
        else:
            found.append([run])
            sequences, rows, longest = count, count * length, length
            room = PADDED if rows < LONG else -1
    return [_group(some) for some in found]


def _group(some: list[Run]) -> Group:
    first, count, length = some[0]
    if len(some) == 1:
        return Group(first, count, length)
    lengths = np.repeat([run[2] for run in some], [run[1] for run in some])
    longest = int(lengths.max())
    real = np.flatnonzero(np.arange(longest) < lengths[:, None])
    return Group(first, len(lengths), longest, torch.from_numpy(real))
