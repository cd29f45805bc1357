"""HSTU's attention on a processor: the weights are stored, the gradients written out.

As `dense_attention`, whose reasons hold here too: masks, biases and their copies took autograd longer than the products.
The bias by distance is one matrix for all sequences, which also hides what a row does not see, and the bucket of time
between two rows is found once a batch for all layers.

Shapes: P packed rows, H heads, K dimensions of a head, L rows of a sequence, n sequences of a group, b rows of a block and
e rows that some of these see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from duality.encoders.base import Layout
from duality.encoders.groups import groups_of, packed_parts, parts_of, row_blocks
from duality.encoders.times import buckets

HIDDEN = -1e4  # a score whose SiLU and slope are 0


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of a group's sequences, and what some of them see.

    Attributes:
        rows, seen: b and e rows.
        span: int32 [n, b, e], bucket of the time between them; None: not known.
    """

    rows: slice
    seen: slice
    span: Tensor | None = None


@lru_cache(maxsize=2)  # spans of 16,000 rows that see 200 each take 16 MB
def blocks_of(layout: Layout, reach: int, highest: int) -> list[list[Block]]:
    """The blocks of every group of a batch; each layer of an encoder asks for the same.

    Args:
        reach: rows that a row sees, itself among them.
        highest: bucket of time (`times.buckets`); 0 knows no time.
    """
    groups, found = groups_of(layout), []
    asked = layout.times if layout.asked is None else layout.asked
    if not highest or layout.times is None or asked is None:
        return [_blocks(group.length, reach) for group in groups]
    columns = [torch.from_numpy(column).view(-1, 1, 1) for column in (asked, layout.times)]
    for group, (later, earlier) in zip(groups, parts_of(groups, *columns), strict=True):
        blocks = _blocks(group.length, reach)
        spans = (later[:, block.rows] - earlier[:, block.seen].transpose(1, 2) for block in blocks)
        found.append(
            [
                Block(block.rows, block.seen, buckets(span, highest).int())
                for block, span in zip(blocks, spans, strict=True)
            ]
        )
    return found


def _blocks(length: int, reach: int) -> list[Block]:
    return [
        Block(rows, slice(max(0, rows.start - reach + 1), rows.stop))
        for rows in row_blocks(length, causal=True)
    ]


class PointwiseAttention(torch.autograd.Function):
    """Sum of the values that a row sees, each weighed by SiLU of score and bias.

    `apply(query_key, value, back, ago, layout, blocks)`: float [P, 2, H, K], float [P, H, K], bias float [reach] by how
    many rows back, bias float [buckets] by how long ago or None, where the sequences lie and their `blocks_of`; to float
    [P, H, K].
    Memory: two numbers a weight, kept for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_key: Tensor,
        value: Tensor,
        back: Tensor,
        ago: Tensor | None,
        layout: Layout,
        blocks: list[list[Block]],
    ) -> Tensor:
        ctx.save_for_backward(query_key, value, back, ago)
        ctx.layout, ctx.blocks, ctx.stored, made = layout, blocks, [], []
        bias, groups = _Bias(back, ago, blocks), groups_of(layout)
        parts = parts_of(groups, *query_key.unbind(1), value)
        for some, (query, key, values) in zip(blocks, parts, strict=True):
            stored, mixed = [], torch.empty_like(values)
            for block in some:
                scores = bias.added(query[:, block.rows], key[:, block.seen], block)
                weights = silu(scores)
                torch.bmm(weights, values[:, block.seen], out=mixed[:, block.rows])
                stored.append((scores, weights))
            if any(ctx.needs_input_grad):
                ctx.stored.append(stored)
            made.append(mixed)
        return packed_parts(groups, made, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query_key, value, back, ago = ctx.saved_tensors
        bias, groups, made = _BiasGradients(back, ago, ctx.blocks), groups_of(ctx.layout), []
        parts = parts_of(groups, *query_key.unbind(1), value, gradient)
        for some, stored, (query, key, values, asked) in zip(ctx.blocks, ctx.stored, parts, strict=True):
            grown = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(values)
            for block, (scores, weights) in zip(some, stored, strict=True):
                slope = torch.bmm(asked[:, block.rows], values[:, block.seen].transpose(1, 2))
                slope = torch.ops.aten.silu_backward(slope, scores)
                bias.add(slope, block)
                _grow(grown, block, slope, weights, query, key, asked)
            made.append(grown)
        to_query, to_key, to_value = (
            packed_parts(groups, pieces, value) for pieces in zip(*made, strict=True)
        )
        return torch.stack((to_query, to_key), 1), to_value, bias.by_row(), bias.to_ago, None, None


def _grow(
    grown: tuple[Tensor, Tensor, Tensor],
    block: Block,
    slope: Tensor,
    weights: Tensor,
    query: Tensor,
    key: Tensor,
    asked: Tensor,
) -> None:
    """Add a block's gradients to those of queries, keys and values, each float [n H, L, K].

    Args:
        slope: of the block's scores, float [n H, b, e].
        asked: of what was mixed, float [n H, L, K].
    """
    to_query, to_key, to_value = grown
    torch.bmm(slope, key[:, block.seen], out=to_query[:, block.rows])
    to_key[:, block.seen].baddbmm_(slope.transpose(1, 2), query[:, block.rows])
    to_value[:, block.seen].baddbmm_(weights.transpose(1, 2), asked[:, block.rows])


class _Distances:
    """How far back lies what a row of a block sees: one matrix, of which every block has some columns."""

    def __init__(self, blocks: list[list[Block]], reach: int) -> None:
        every = [block for some in blocks for block in some]
        rows = max((block.rows.stop - block.rows.start for block in every), default=0)
        self.most = max((block.rows.start - block.seen.start for block in every), default=0)
        self.far = torch.arange(rows)[:, None] + self.most - torch.arange(self.most + rows)
        self.hidden = (self.far < 0) | (self.far >= reach)

    def place(self, block: Block) -> tuple[slice, slice]:
        """Rows and columns of a block."""
        first = self.most - (block.rows.start - block.seen.start)
        rows, seen = block.rows.stop - block.rows.start, block.seen.stop - block.seen.start
        return slice(rows), slice(first, first + seen)


class _Bias:
    def __init__(self, back: Tensor, ago: Tensor | None, blocks: list[list[Block]]) -> None:
        self.distances, self.ago = _Distances(blocks, len(back)), ago
        far, hidden = self.distances.far, self.distances.hidden
        self.by_distance = back[far.clamp(0, len(back) - 1)].masked_fill_(hidden, HIDDEN)

    def added(self, query: Tensor, key: Tensor, block: Block) -> Tensor:
        """Scores of a block with their bias, float [n H, b, e]."""
        scores = torch.baddbmm(
            self.by_distance[self.distances.place(block)][None], query, key.transpose(1, 2)
        )
        if block.span is not None and self.ago is not None:
            _per_sequence(scores, block.span).add_(self.ago[block.span][:, None])
        return scores


class _BiasGradients:
    def __init__(self, back: Tensor, ago: Tensor | None, blocks: list[list[Block]]) -> None:
        self.distances, self.back = _Distances(blocks, len(back)), back
        self.by_distance = back.new_zeros(self.distances.far.shape)
        self.to_ago = None if ago is None else torch.zeros_like(ago)

    def add(self, slope: Tensor, block: Block) -> None:
        """Gradient of a block's scores, float [n H, b, e]."""
        if block.span is not None and self.to_ago is not None:
            slope = _per_sequence(slope, block.span).sum(1)
            self.to_ago += torch.bincount(block.span.flatten(), slope.flatten(), len(self.to_ago))
        self.by_distance[self.distances.place(block)] += slope.sum(0)

    def by_row(self) -> Tensor:
        """Gradient by how many rows back, of the shape of `back`."""
        seen = ~self.distances.hidden
        return torch.zeros_like(self.back).index_add_(0, self.distances.far[seen], self.by_distance[seen])


def _per_sequence(scores: Tensor, span: Tensor) -> Tensor:
    return scores.unflatten(0, (len(span), -1))
