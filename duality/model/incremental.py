"""User states of continued histories, without encoding the history again.

A prefix is encoded once; its keys and values are shared by all its branches, and each branch
keeps those of its own few rows. `Recomputed` answers the same questions by encoding everything
again: for encoders whose inside is not known here, and as the oracle of the tests.

Cost:   one extension is S x B rows through the encoder plus attention to at most L + t rows;
        the cache takes 2 x num_blocks x S x L x D floats, L the longest prefix of the batch.
Shapes: S prefixes, B branches of each, L rows of the longest prefix, t rows that a branch has
        added, P packed rows, D dimensions, H heads, K = D / H.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from duality.encoders.attention import packed_attention
from duality.encoders.base import Encoder, Layout
from duality.encoders.blocks import SoftmaxBlock, SoftmaxStack


class Continued(Protocol):
    """Histories that grow by one row per branch at a time."""

    last: Tensor
    """float [S, D]: the state after each prefix."""

    def extend(self, rows: Tensor) -> Tensor:
        """Append float [S, B, D], one row to each branch; the new states, float [S, B, D]."""

    def keep(self, parents: Tensor) -> None:
        """Branch b goes on from branch parents[s, b] (int64 [S, B]); for beam search."""


def continued(encoder: Encoder, rows: Tensor, layout: Layout) -> Continued:
    """Encode prefixes so that they can be continued.

    Args:
        encoder: in evaluation mode.
        rows: float [P, D], packed input of the prefixes.
        layout: where each prefix lies; none is empty.
    """
    if isinstance(encoder, SoftmaxStack) and encoder.prefix_invariant and not encoder.max_length:
        return Cached(encoder, rows, layout)
    return Recomputed(encoder, rows, layout)


class Cached:
    """Continuations of a transformer from stored keys and values; see the module header."""

    def __init__(self, encoder: SoftmaxStack, rows: Tensor, layout: Layout) -> None:
        self.encoder = encoder
        self.lengths = torch.from_numpy(layout.lengths.astype("int64"))
        self.hidden = torch.arange(int(self.lengths.max())) >= self.lengths[:, None]
        self.prefix: list[tuple[Tensor, Tensor]] = []
        self.own: list[tuple[Tensor, Tensor]] | None = None
        self.added = 0
        self.last = self._encode(rows, layout)

    def _encode(self, rows: Tensor, layout: Layout) -> Tensor:
        """States of the prefixes, float [S, D]; fills `prefix`, [S, L, H, K] keys and values a block."""
        rows, turns = self.encoder.enter(rows, self.encoder.positions_of(layout, rows.device))
        places = (
            torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths),
            torch.from_numpy(layout.positions),
        )
        for block in self.encoder.blocks:
            assert isinstance(block, SoftmaxBlock)
            query_key, value = block.project(rows, turns)
            self.prefix.append((self._padded(query_key[:, 1], places), self._padded(value, places)))
            rows = block.finish(rows, packed_attention(query_key, value, layout))
        last: Tensor = self.encoder.norm(rows[torch.from_numpy(layout.last_rows)])
        return last

    def _padded(self, packed: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
        padded = packed.new_zeros((*self.hidden.shape, *packed.shape[1:]))
        padded[places] = packed
        return padded

    def extend(self, rows: Tensor) -> Tensor:
        """Append one row to each branch: float [S, B, D] to the new states, float [S, B, D]."""
        shape, own = rows.shape, []
        positions = (self.lengths + self.added).repeat_interleave(shape[1])
        flat, turns = self.encoder.enter(rows.flatten(0, 1), positions)
        for number, block in enumerate(self.encoder.blocks):
            assert isinstance(block, SoftmaxBlock)
            query_key, value = (part.unflatten(0, shape[:2]) for part in block.project(flat, turns))
            keys, values = query_key[:, :, None, 1], value[:, :, None]
            if self.own is not None:
                keys = torch.cat((self.own[number][0], keys), dim=2)
                values = torch.cat((self.own[number][1], values), dim=2)
            own.append((keys, values))
            mixed = _attend(query_key[:, :, 0], self.prefix[number], (keys, values), self.hidden)
            flat = block.finish(flat, mixed.flatten(0, 1))
        self.own, self.added = own, self.added + 1
        states: Tensor = self.encoder.norm(flat)
        return states.view(shape)

    def keep(self, parents: Tensor) -> None:
        """Branch b goes on from branch parents[s, b]."""
        if self.own is not None:
            rows = torch.arange(len(parents))[:, None]
            self.own = [(keys[rows, parents], values[rows, parents]) for keys, values in self.own]


def _attend(
    query: Tensor, prefix: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], hidden: Tensor
) -> Tensor:
    """Softmax attention of one row per branch to its prefix and its own rows: float [S, B, H, K]."""
    before = torch.einsum("sbhk,slhk->sbhl", query, prefix[0])
    before = before.masked_fill(hidden[:, None, None, :], -torch.inf)
    since = torch.einsum("sbhk,sbthk->sbht", query, own[0])
    weights = (torch.cat((before, since), dim=-1) / query.shape[-1] ** 0.5).softmax(-1)
    old, new = weights.split((before.shape[-1], since.shape[-1]), dim=-1)
    mixed = torch.einsum("sbhl,slhk->sbhk", old, prefix[1])
    return mixed + torch.einsum("sbht,sbthk->sbhk", new, own[1])


class Recomputed:
    """Continuations of any causal encoder, by encoding prefix and branch again at every step."""

    def __init__(self, encoder: Encoder, rows: Tensor, layout: Layout) -> None:
        self.encoder, self.lengths = encoder, layout.lengths
        self.prefixes = rows.split(layout.lengths.tolist())
        self.own: Tensor | None = None
        self.last = encoder(rows, layout)[torch.from_numpy(layout.last_rows)]

    def extend(self, rows: Tensor) -> Tensor:
        """Append one row to each branch: float [S, B, D] to the new states, float [S, B, D]."""
        added = rows[:, :, None]
        self.own = added if self.own is None else torch.cat((self.own, added), dim=2)
        packed = [
            torch.cat((prefix, branch))
            for prefix, branches in zip(self.prefixes, self.own, strict=True)
            for branch in branches
        ]
        layout = Layout((self.lengths + self.own.shape[2]).repeat(rows.shape[1]))
        return self.encoder(torch.cat(packed), layout)[torch.from_numpy(layout.last_rows)].view(rows.shape)

    def keep(self, parents: Tensor) -> None:
        """Branch b goes on from branch parents[s, b]."""
        if self.own is not None:
            self.own = self.own[torch.arange(len(parents))[:, None], parents]
