"""HSTU's attention on a processor: the weights are stored, the gradients written out.

As `dense_attention`, whose reasons hold here too: masks, biases and their copies took autograd longer than the products.
The bias by distance is one matrix for all sequences, which also hides what lies ahead, and the bucket of time between two
rows is found once a batch for all layers.

Shapes: P packed rows, H heads, K dimensions of a head, L rows of a sequence, n sequences of a group, b rows of a block and
e rows that these know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from duality.encoders.base import Layout
from duality.encoders.groups import Group, groups_of, packed_parts, parts_of, row_blocks
from duality.encoders.times import buckets

AHEAD = -1e4  # a score whose SiLU and slope are 0
Known = tuple[slice, Tensor | None]  # a block of rows; bucket of time to what they know, int32 [n, b, e]


@lru_cache(maxsize=4)
def known_of(layout: Layout, highest: int) -> list[list[Known]]:
    """The blocks of rows of every group of a batch; each layer of an encoder asks for the same.

    Args:
        highest: bucket of time (`times.buckets`); 0 knows no time.
    """
    groups = groups_of(layout)
    blocks = [row_blocks(group.length, causal=True) for group in groups]
    if not highest or layout.times is None:
        return [[(rows, None) for rows in some] for some in blocks]
    asked = layout.times if layout.asked is None else layout.asked
    columns = [torch.from_numpy(column).view(-1, 1, 1) for column in (asked, layout.times)]
    return [
        [
            (rows, buckets(later[:, rows] - earlier[:, : rows.stop].transpose(1, 2), highest).int())
            for rows in some
        ]
        for some, (later, earlier) in zip(blocks, parts_of(groups, *columns), strict=True)
    ]


class PointwiseAttention(torch.autograd.Function):
    """Sum of the values that a row knows, each weighed by SiLU of score and bias.

    `apply(query_key, value, back, ago, groups, known)`: float [P, 2, H, K], float [P, H, K], bias float [L or more] by how
    many rows back, bias float [buckets] by how long ago or None, the groups of a batch and their blocks; to float
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
        groups: list[Group],
        known: list[list[Known]],
    ) -> Tensor:
        ctx.save_for_backward(query_key, value, back, ago)
        ctx.groups, ctx.known, ctx.stored, made = groups, known, [], []
        bias = _Bias(back, ago, groups)
        for blocks, (query, key, values) in zip(
            known, parts_of(groups, *query_key.unbind(1), value), strict=True
        ):
            stored, mixed = [], torch.empty_like(values)
            for rows, span in blocks:
                scores = bias.added(query[:, rows], key[:, : rows.stop], rows, span)
                weights = silu(scores)
                torch.bmm(weights, values[:, : rows.stop], out=mixed[:, rows])
                stored.append((scores, weights))
            if any(ctx.needs_input_grad):
                ctx.stored.append(stored)
            made.append(mixed)
        return packed_parts(groups, made, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query_key, value, back, ago = ctx.saved_tensors
        bias, made = _BiasGradients(back, ago, ctx.groups), []
        parts = parts_of(ctx.groups, *query_key.unbind(1), value, gradient)
        for blocks, stored, (query, key, values, asked) in zip(ctx.known, ctx.stored, parts, strict=True):
            grown = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(values)
            for (rows, span), (scores, weights) in zip(blocks, stored, strict=True):
                slope = torch.bmm(asked[:, rows], values[:, : rows.stop].transpose(1, 2))
                slope = torch.ops.aten.silu_backward(slope, scores)
                bias.add(slope, rows, span)
                _grow(grown, rows, slope, weights, query[:, rows], key[:, : rows.stop], asked[:, rows])
            made.append(grown)
        query_grown, key_grown, value_grown = (
            packed_parts(ctx.groups, pieces, value) for pieces in zip(*made, strict=True)
        )
        return torch.stack((query_grown, key_grown), 1), value_grown, bias.by_row(), bias.to_ago, None, None


def _grow(
    grown: tuple[Tensor, Tensor, Tensor],
    rows: slice,
    slope: Tensor,
    weights: Tensor,
    query: Tensor,
    key: Tensor,
    asked: Tensor,
) -> None:
    """Add a block's gradients to those of queries, keys and values, each float [n H, L, K].

    Args:
        slope: of the block's scores, float [n H, b, e].
        asked: of what it mixed, float [n H, b, K].
    """
    to_query, to_key, to_value = grown
    torch.bmm(slope, key, out=to_query[:, rows])
    to_key[:, : rows.stop].baddbmm_(slope.transpose(1, 2), query)
    to_value[:, : rows.stop].baddbmm_(weights.transpose(1, 2), asked)


def _per_sequence(scores: Tensor, span: Tensor) -> Tensor:
    return scores.unflatten(0, (len(span), -1))


def _distances(groups: list[Group]) -> Tensor:
    """int64 [L, L] of the longest: how far back each row lies from each; below 0 ahead."""
    place = torch.arange(max((group.length for group in groups), default=0))
    return place[:, None] - place


class _Bias:
    def __init__(self, back: Tensor, ago: Tensor | None, groups: list[Group]) -> None:
        far = _distances(groups)
        self.by_distance = back[far.clamp(min=0)].masked_fill_(far < 0, AHEAD)[None]
        self.ago = ago

    def added(self, query: Tensor, key: Tensor, rows: slice, span: Tensor | None) -> Tensor:
        """Scores with their bias, float [n H, b, e], of some rows and the keys that they know."""
        scores = torch.baddbmm(self.by_distance[:, rows, : rows.stop], query, key.transpose(1, 2))
        if span is not None and self.ago is not None:
            _per_sequence(scores, span).add_(self.ago[span][:, None])
        return scores


class _BiasGradients:
    def __init__(self, back: Tensor, ago: Tensor | None, groups: list[Group]) -> None:
        self.far, self.back = _distances(groups), back
        self.by_distance = back.new_zeros(self.far.shape)
        self.to_ago = None if ago is None else torch.zeros_like(ago)

    def add(self, slope: Tensor, rows: slice, span: Tensor | None) -> None:
        """Gradient of a block's scores, float [n H, b, e]."""
        if span is not None and self.to_ago is not None:
            slope = _per_sequence(slope, span).sum(1)
            self.to_ago += torch.bincount(span.flatten(), slope.flatten(), len(self.to_ago))
        self.by_distance[rows, : rows.stop] += slope.sum(0)

    def by_row(self) -> Tensor:
        """Gradient by how many rows back, of the shape of `back`."""
        seen = self.far >= 0
        return torch.zeros_like(self.back).index_add_(0, self.far[seen], self.by_distance[seen])
