"""Attention inside each sequence of a packed batch: nothing is padded, equally long neighbours share a call.

Memory is linear in L: torch's fused kernel never stores the L x L weights, and where it cannot be used (dropout on a
processor, other weights than softmax) they exist BLOCK rows at a time and are made again for the gradients. Sequences of up to
AT_ONCE rows do store theirs there (`DenseAttention`, where weights are dropped).

Shapes: P packed rows, H heads, K dimensions of a head, L rows of a sequence, n sequences of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from duality.encoders.base import Layout, Run
from duality.encoders.dense_attention import DenseAttention
from duality.encoders.dropout import dropout
from duality.encoders.groups import AT_ONCE, Group, groups_of

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
Parts = tuple[Tensor, Tensor, Tensor]  # queries, keys and values of a run, float [n, H, L, K]
BLOCK = 256


def packed_attention(
    query_key: Tensor, value: Tensor, layout: Layout, *, causal: bool = True, share: float = 0.0
) -> Tensor:
    """Softmax attention inside each sequence.

    Args:
        query_key: float [P, 2, H, K].
        value: float [P, H, K].
        layout: where the sequences lie.
        causal: whether a row sees only itself and what came before.
        share: of the weights that is dropped.

    Returns:
        float [P, H, K].
    """

    if share and stores_weights(layout, value.device):
        groups = groups_of(layout) if causal else [Group(*run) for run in layout.runs]
        mixed: Tensor = DenseAttention.apply(query_key, value, groups, causal, share)
        return mixed

    def attend(run: Run, parts: Parts) -> Tensor:
        if run[2] == 1 and not share:
            return parts[2]
        if share:
            return in_blocks(partial(_dropped, share, causal), *parts, causal=causal)
        return functional.scaled_dot_product_attention(*parts, is_causal=causal)

    return in_runs(attend, query_key, value, layout)


def stores_weights(layout: Layout, device: torch.device, reach: int | None = None) -> bool:
    """Whether weights of all rows are made and kept: on a processor, if none sees (`reach`) more than AT_ONCE rows."""
    longest = max((length for _, _, length in layout.runs), default=0)
    seen = longest if reach is None else min(reach, longest)
    return seen <= AT_ONCE and device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def in_runs(
    attend: Callable[[Run, Parts], Tensor], query_key: Tensor, value: Tensor, layout: Layout
) -> Tensor:
    """Attention of a batch, run by run.

    Args:
        attend: a run and its parts to float [n, H, L, K].
        query_key: float [P, 2, H, K].
        value: float [P, H, K].
        layout: where the sequences lie.

    Returns:
        float [P, H, K].
    """
    # split, not slices: the backward of a slice fills a whole [P, ...] tensor per run.
    sizes = [count * length for _, count, length in layout.runs]
    pieces = [
        attend(run, _parts(run, one, few)).transpose(1, 2).reshape(few.shape)
        for run, one, few in zip(layout.runs, query_key.split(sizes), value.split(sizes), strict=True)
    ]
    return torch.cat(pieces)


def _parts(run: Run, query_key: Tensor, value: Tensor) -> Parts:
    _, count, length = run
    q, k = query_key.view(count, length, *query_key.shape[1:]).permute(2, 0, 3, 1, 4).unbind()
    return q, k, value.view(count, length, *value.shape[1:]).transpose(1, 2)


def in_blocks(
    attend: Attend, query: Tensor, key: Tensor, value: Tensor, *, causal: bool = True, reach: int = 0
) -> Tensor:
    """Attention a block of rows at a time; what it stored is made again for the gradients.

    Args:
        attend: queries float [n, H, b, K], keys and values [n, H, e, K] up to the last of them (all, if not
            causal), and the place of the first query, to float [n, H, b, K].
        query, key, value: float [n, H, L, K].
        reach: rows that a row sees, itself among them; of causal attention it leaves out keys that none sees. 0: all.
    """
    length = query.shape[2]
    if length <= AT_ONCE:
        return attend(query, key, value, 0)
    pieces = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        seen = slice(max(0, start - reach + 1) if reach else 0, end if causal else length)
        part = query[:, :, start:end], key[:, :, seen], value[:, :, seen]
        pieces.append(checkpoint(attend, *part, start, use_reentrant=False))
    return torch.cat(pieces, dim=2)


def back(query: Tensor, key: Tensor, start: int) -> Tensor:
    """int64 [b, e]: how far back each key lies from each query of a block that begins at `start`; below 0 ahead."""
    place = torch.arange(key.shape[2], device=key.device)
    return place[start : start + query.shape[2], None] - place


def _dropped(share: float, causal: bool, query: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
    """Softmax attention with dropped weights, for `in_blocks`."""
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    if causal:
        scores = scores.masked_fill(back(query, key, start) < 0, -torch.inf)
    return dropout(scores.softmax(3), share) @ value
