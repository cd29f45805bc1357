"""The contract of every encoder: packed rows in, one state per row out.

A batch of sequences is one matrix: the rows of all sequences, one after another, without
padding. `Layout` says where each sequence starts. Row r's state sees the rows of its own
sequence up to and including r, nothing else.

Shapes: P packed rows, S sequences, D dimensions, L rows of one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

Run = tuple[int, int, int]  # first row, number of sequences, length


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the sequences of a packed batch lie.

    Args:
        lengths: int64 [S], each >= 1, in packed order. Attention runs once per run of equal
            neighbours, so a batch sorted by length is computed in the fewest calls.
        times: int64 [P], when each row happened, in microseconds; None where nobody knows.
        asked: int64 [P], when each state is asked for; None: at once.
        owners: int [P], the user (or item) whose history each row belongs to; None where nobody knows.
        context: int [P, C], codes of the rows' events, -1 for none; None where nobody knows.
    """

    lengths: np.ndarray
    times: np.ndarray | None = None
    asked: np.ndarray | None = None
    owners: np.ndarray | None = None
    context: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.lengths) and self.lengths.min() < 1:
            raise ValueError("a packed sequence needs at least one row")

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [S + 1]: rows offsets[s] to offsets[s + 1] belong to sequence s."""
        return np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))

    @cached_property
    def positions(self) -> np.ndarray:
        """int64 [P]: 0 for the first (oldest) row of each sequence."""
        return np.arange(self.num_rows) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def runs(self) -> list[Run]:
        """Runs of equally long neighbours."""
        if not len(self.lengths):
            return []
        starts = np.flatnonzero(np.diff(self.lengths, prepend=-1))
        counts = np.diff(starts, append=len(self.lengths))
        return [
            (int(self.offsets[s]), int(c), int(self.lengths[s])) for s, c in zip(starts, counts, strict=True)
        ]

    @property
    def num_rows(self) -> int:
        return int(self.offsets[-1])

    @property
    def last_rows(self) -> np.ndarray:
        """int64 [S]: the newest row of each sequence."""
        return self.offsets[1:] - 1

    def asked_in_turn(self, newest: np.ndarray | None = None) -> Layout:
        """The same with each state asked for when the row after it happened.

        Args:
            newest: int64 [S], microseconds: when the newest of each sequence are asked for; None: at once.
        """
        if self.times is None:
            return self
        asked = np.append(self.times[1:], 0)
        asked[self.last_rows] = self.times[self.last_rows] if newest is None else newest
        return replace(self, asked=asked)

    def cut(self, most: int) -> Layout:
        """The same rows with each sequence cut into pieces of `most` rows, counted from its newest."""
        if not len(self.lengths) or self.lengths.max() <= most:
            return self
        pieces = -(-self.lengths // most)
        lengths = np.full(pieces.sum(), most, dtype=np.int64)
        lengths[np.cumsum(pieces) - pieces] = self.lengths - (pieces - 1) * most
        return Layout(lengths, self.times, self.asked, self.owners, self.context)

    def part(self, first: int, last: int) -> Layout:
        """Sequences `first` to `last`, that one not among them."""
        return self.rows(self.lengths[first:last], np.arange(self.offsets[first], self.offsets[last]))

    def rows(self, lengths: np.ndarray, chosen: np.ndarray) -> Layout:
        """Sequences of these lengths made of chosen rows, int64 [N]."""
        columns = (self.times, self.asked, self.owners, self.context)
        return Layout(lengths, *(None if column is None else column[chosen] for column in columns))


class Encoder(nn.Module):
    """Base of the encoders.

    A subclass maps float [P, D] rows and their Layout to float [P, D] states.

    Attributes:
        causal: row r's state depends on no later row.
        prefix_invariant: nor on how many there are: one pass over at most `max_length` rows serves every
            prefix. False where positions count from the newest row, or every row sees all.
        max_length: rows that a state sees at most; longer sequences are cut into pieces from their newest
            row, and each piece knows nothing of the others. 0 sees all.
        hidden_share: share of the rows that training hides and asks for (`masked`); 0 where it cannot.
        noisy: training draws what has no gradient: `draw` before a step, `turn` to the opposite draw and the
            same step again, `penalty` of the difference.
    """

    causal = True
    prefix_invariant = True
    max_length = 0
    hidden_share = 0.0
    noisy = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def one_pass(self) -> bool:
        """Whether one pass has the states of all prefixes, however long."""
        return self.prefix_invariant and not self.max_length

    def seen(self, layout: Layout) -> Layout:
        """What a state sees: sequences, or pieces of them."""
        return layout.cut(self.max_length) if self.max_length else layout

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        raise NotImplementedError

    def masked(self, rows: Tensor, layout: Layout, hidden: np.ndarray) -> Tensor:
        """States in the place of hidden rows, int64 [N], from the rows around them: float [N, D]."""
        raise NotImplementedError

    def draw(self) -> None:
        """Noise for one step."""
        raise NotImplementedError

    def turn(self) -> None:
        """The opposite of the last draw."""
        raise NotImplementedError

    def penalty(self, difference: Tensor) -> Tensor:
        """What is added to the loss: `difference` is that of the draw minus that of its opposite."""
        raise NotImplementedError


def prefix_states(
    encoder: Encoder, rows: Tensor, layout: Layout, wanted: np.ndarray | None = None, *, block: int = 100_000
) -> Tensor:
    """The states of prefixes, float [W, D]: what each wanted row's state would be if its sequence ended there.

    Args:
        wanted: int64 [W], rows that prefixes end at; None: all P.

    Cost: one pass where the encoder is prefix invariant, for prefixes of at most `max_length`. Every other prefix is a
    sequence of its own, which is quadratic in the length (linear with `max_length`), `block` rows at a time.
    """
    reach = (encoder.max_length or layout.num_rows) if encoder.prefix_invariant else 0
    if wanted is None:
        if (layout.positions < reach).all():
            states: Tensor = encoder(rows, layout)
            return states
        wanted = np.arange(layout.num_rows)
    together = layout.positions[wanted] < reach
    alone, found = wanted[~together], []
    if together.any():
        found.append(_heads(encoder, rows, layout, wanted[together]))
    ends, first = np.cumsum(_seen_by(encoder, layout)[alone]), 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + block, side="right")))
        found.append(states_at(encoder, rows, layout, alone[first:last]))
        first = last
    back = np.argsort(np.argsort(~together, kind="stable"))
    return torch.cat(found)[torch.from_numpy(back).to(rows.device)]


def _heads(encoder: Encoder, rows: Tensor, layout: Layout, wanted: np.ndarray) -> Tensor:
    """The states of some rows, int64 [W], by one pass over each sequence as far as the newest of them: float [W, D]."""
    needed = np.zeros(len(layout.lengths), np.int64)
    np.maximum.at(
        needed, np.searchsorted(layout.offsets, wanted, side="right") - 1, layout.positions[wanted] + 1
    )
    head = np.flatnonzero(layout.positions < np.repeat(needed, layout.lengths))
    states = encoder(rows[torch.from_numpy(head).to(rows.device)], layout.rows(needed[needed > 0], head))
    return states[torch.from_numpy(np.searchsorted(head, wanted)).to(rows.device)]


def states_at(encoder: Encoder, rows: Tensor, layout: Layout, wanted: np.ndarray) -> Tensor:
    """The states of some prefixes, each a sequence of its own, with gradients: float [W, D].

    Args:
        wanted: int64 [W], rows that the prefixes end at.
    """
    lengths = _seen_by(encoder, layout)[wanted]
    order = np.argsort(lengths, kind="stable")  # equally long ones share a call
    some, last = Layout(lengths[order]), wanted[order]
    place = some.positions + np.repeat(last - some.lengths + 1, some.lengths)
    some = layout.rows(some.lengths, place)
    made = encoder(rows[torch.from_numpy(place).to(rows.device)], some)
    made = made[torch.from_numpy(some.last_rows).to(rows.device)]
    return made[torch.from_numpy(np.argsort(order)).to(rows.device)]


def _seen_by(encoder: Encoder, layout: Layout) -> np.ndarray:
    """How many rows each state sees, int64 [P], its own among them."""
    return np.minimum(layout.positions + 1, encoder.max_length or layout.num_rows)


def packed_positions(layout: Layout, device: torch.device) -> Tensor:
    """`layout.positions` as an int64 tensor [P] on `device`."""
    return torch.from_numpy(layout.positions).to(device)
