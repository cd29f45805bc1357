"""Attention with dropped weights on a processor: the weights are stored, the gradients written out.

Autograd of the written-out form spends more on masks, views and copies than on products; one function for all sequences
of a batch takes two thirds of its time. Sequences go a block of rows at a time, so that little is computed of what lies
ahead, and short ones of about one length together (`duality.encoders.groups`).

Shapes: P packed rows, H heads, K dimensions of a head, L rows of a sequence, n sequences of a group.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from duality.encoders.dropout import dropout_factors
from duality.encoders.groups import AT_ONCE, Group, packed_parts, parts_of, row_blocks

Block = tuple[
    slice, Tensor, Tensor | None
]  # rows, their weights [n H, b, e], what dropout multiplied those with


class DenseAttention(torch.autograd.Function):
    """Softmax attention inside each sequence.

    `apply(query_key, value, groups, causal, share)`: float [P, 2, H, K], float [P, H, K], groups of up to AT_ONCE rows a
    sequence (padded ones only if causal, when what fills them lies ahead of every row), whether a row sees only itself
    and what came before, share of the weights that is dropped; to float [P, H, K].
    Memory: two numbers a weight, kept for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, query_key: Tensor, value: Tensor, groups: list[Group], causal: bool, share: float
    ) -> Tensor:
        ctx.save_for_backward(query_key, value)
        ctx.groups, ctx.stored, made = groups, [], []
        for query, key, values in parts_of(groups, *query_key.unbind(1), value):
            blocks, mixed = [], torch.empty_like(values)
            for rows in row_blocks(query.shape[1], causal):
                known = slice(rows.stop if causal else None)
                weights = _weights(query, key, rows, known, causal)
                kept = dropout_factors(weights, share) if share else None
                torch.bmm(_thinned(weights, kept), values[:, known], out=mixed[:, rows])
                blocks.append((rows, weights, kept))
            ctx.stored.append(blocks)
            made.append(mixed)
        return packed_parts(groups, made, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query_key, value = ctx.saved_tensors
        parts = parts_of(ctx.groups, *query_key.unbind(1), value, gradient)
        made = [_gradients(blocks, *part) for blocks, part in zip(ctx.stored, parts, strict=True)]
        to_query, to_key, to_value = (
            packed_parts(ctx.groups, pieces, value) for pieces in zip(*made, strict=True)
        )
        return torch.stack((to_query, to_key), 1), to_value, None, None, None


def _weights(query: Tensor, key: Tensor, rows: slice, known: slice, causal: bool) -> Tensor:
    """Softmax of the scores of some rows among the keys they know, float [n H, b, e]."""
    ahead = _ahead(query.dtype)[:, rows, known] if causal else query.new_zeros(())
    scale = query.shape[2] ** -0.5
    return torch.baddbmm(ahead, query[:, rows], key[:, known].transpose(1, 2), alpha=scale).softmax(2)


def _gradients(
    blocks: list[Block], query: Tensor, key: Tensor, values: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values, each float [n H, L, K]."""
    scale = query.shape[2] ** -0.5
    to_query = torch.empty_like(query)
    to_key, to_value = torch.zeros_like(key), torch.zeros_like(values)
    for rows, weights, kept in blocks:
        known = slice(weights.shape[2])
        asked = gradient[:, rows]
        to_value[:, known].baddbmm_(_thinned(weights, kept).transpose(1, 2), asked)
        to_weights = _thinned(torch.bmm(asked, values[:, known].transpose(1, 2)), kept)
        to_scores = torch._softmax_backward_data(to_weights, weights, 2, weights.dtype).mul_(scale)
        torch.bmm(to_scores, key[:, known], out=to_query[:, rows])
        to_key[:, known].baddbmm_(to_scores.transpose(1, 2), query[:, rows])
    return to_query, to_key, to_value


def _thinned(weights: Tensor, kept: Tensor | None) -> Tensor:
    return weights if kept is None else weights * kept


@lru_cache(maxsize=4)
def _ahead(dtype: torch.dtype) -> Tensor:
    """float [1, AT_ONCE, AT_ONCE]: what is added to scores, -inf where a key lies ahead of its query."""
    return torch.full((1, AT_ONCE, AT_ONCE), -torch.inf, dtype=dtype).triu_(1)
