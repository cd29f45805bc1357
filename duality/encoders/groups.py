"""Sequences whose attention is computed in one call: equally long ones, and short ones of about one length, padded.

A call costs as much as the attention of some hundred rows, and a batch of histories has nearly as many lengths as
sequences: a few padded rows save more than they cost. Nothing else of a model is padded.

Shapes: n sequences of a group, L rows of its longest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from duality.encoders.base import Layout, Run

PADDED = 50  # rows that may be padded for a call that is saved
AT_ONCE = 512  # rows of a sequence whose weights are stored for the gradients
BLOCK = 96  # rows that attend at once, so that little is computed of what lies ahead
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


def row_blocks(length: int, causal: bool) -> list[slice]:
    """Rows of a sequence in about equal blocks; all at once where every row sees all."""
    pieces = max(1, round(length / BLOCK)) if causal else 1
    ends = [length * piece // pieces for piece in range(pieces + 1)]
    return [slice(*between) for between in pairwise(ends)]


def parts_of(groups: list[Group], *packed: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Packed rows as float [n H, L, K] of each group; 0 where a sequence is padded."""
    return zip(*([_part(group, rows) for group in groups] for rows in packed), strict=True)


def _part(group: Group, rows: Tensor) -> Tensor:
    _, heads, dim = rows.shape
    first = group.first
    if group.real is not None:
        padded = rows.new_zeros(group.count * group.length, heads, dim)
        rows, first = padded.index_copy_(0, group.real, rows[first : first + len(group.real)]), 0
    row, head, _ = rows.stride()
    # One call instead of four: 70 groups a batch make views a fifth of the time.
    shape, strides = (group.count, heads, group.length, dim), (group.length * row, head, row, 1)
    part = rows.as_strided(shape, strides, rows.storage_offset() + first * row)
    return part[:, 0] if heads == 1 else part.reshape(-1, group.length, dim)


def packed_parts(groups: list[Group], parts: Iterable[Tensor], like: Tensor) -> Tensor:
    """The opposite of `parts_of`: float [P, H, K]."""
    whole = []
    for group, part in zip(groups, parts, strict=True):
        rows = part.unflatten(0, (group.count, -1)).transpose(1, 2).flatten(0, 1)
        whole.append(rows if group.real is None else rows.index_select(0, group.real))
    return torch.cat(whole).view_as(like)
