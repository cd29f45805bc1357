"""The ranking and cycle losses, each on plain tensors.

Shapes: P rows, M candidates, Q queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from duality.encoders.products import add_product, product

# Scores held at once: 4 MB, which the caches of a core hold, on a processor; a GPU wants large products. Fewer
# rows than LEAST at a time would write the candidates' gradients too often.
SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}
LEAST = 256


class _Softmax(torch.autograd.Function):
    """Softmax loss whose [P, M] scores exist one chunk at a time; gradients are made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        positives: Tensor,
        candidates: Tensor,
        columns: Tensor,
        offset: Tensor,
        trust: float,
    ) -> tuple[Tensor, Tensor]:
        loss, total = queries.new_zeros(()), queries.new_zeros(())
        log_partition = queries.new_empty(queries.shape[0])
        grad_queries, grad_positives = torch.empty_like(queries), torch.empty_like(positives)
        grad_candidates = candidates.new_zeros(candidates.T.shape)
        for part, scores in _chunks(queries, candidates, columns, offset):
            query, positive = queries[part], positives[part]
            own = (query * positive).sum(1)
            # One pass of exp serves the partition and the gradients, which are divided by it afterwards.
            highest = torch.maximum(scores.amax(1), own)
            weights, weight = scores.sub_(highest[:, None]).exp_(), (own - highest).exp_()
            partition = weights.sum(1) + weight
            log_partition[part] = partition.log() + highest
            each = log_partition[part] - own
            worth = torch.exp(-trust * each)
            loss, total = loss + (worth * each).sum(), total + worth.sum()
            pull, share = (weight / partition - 1) * worth, (worth / partition)[:, None]
            grad_queries[part] = torch.addcmul(
                pull[:, None] * positive, product(weights, candidates.T), share
            )
            grad_positives[part] = pull[:, None] * query
            if ctx.needs_input_grad[2]:
                add_product(grad_candidates, (query * share).T, weights.T)
        ctx.save_for_backward(grad_queries / total, grad_positives / total, grad_candidates.T / total)
        ctx.mark_non_differentiable(log_partition)
        return loss / total, log_partition

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, positives, candidates = ctx.saved_tensors
        return grads[0] * queries, grads[0] * positives, grads[0] * candidates, None, None, None


def softmax_loss(
    queries: Tensor,
    positives: Tensor,
    candidates: Tensor,
    columns: Tensor,
    *,
    offset: float | Tensor = 0.0,
    trust: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row's positive against shared candidates, without storing the scores.

    Args:
        queries: float [P, D].
        positives: float [P, D], the right answer of each row.
        candidates: float [M, D], shared by all rows.
        columns: int64 [P]: which candidate is the row's own positive, -1 for none. That candidate
            does not compete.
        offset: added to the scores of candidates, one number or float [M]: log(N / M) makes M uniform
            negatives stand for all N, -log(n q) does so for n draws with probabilities q, so that the
            returned log-partition estimates that of all items. The positive is there whatever was
            drawn and its score is left alone.
        trust: rows weigh p^trust, p their positive's probability: above 0 what can be predicted counts more,
            below 0 what cannot. The weights have no gradient.

    Returns:
        Scalar mean loss in nats, and log Z float [P] (no gradient).

    Source: the positive that is not importance-weighted: Khrylchenko et al. 2025, arXiv 2507.09331.
    """
    added = torch.as_tensor(offset, dtype=queries.dtype, device=queries.device)
    return _Softmax.apply(queries, positives, candidates, columns, added.expand(len(candidates)), trust)


@torch.no_grad()
def log_partition(states: Tensor, candidates: Tensor) -> Tensor:
    """Log-sum-exp of the inner products of each state, float [P, D], with all candidates, float [M, D]: float [P]."""
    rows = max(1, SCORES.get(states.device.type, 1 << 20) // len(candidates))
    room = states.new_empty(min(rows, len(states)), len(candidates))
    found = states.new_empty(len(states))
    for start in range(0, len(states), rows):
        part = states[start : start + rows]
        scores = product(part, candidates, room=room[: len(part)])
        highest = scores.amax(1)
        found[start : start + rows] = scores.sub_(highest[:, None]).exp_().sum(1).log_().add_(highest)
    return found


class _PartitionAmong(torch.autograd.Function):
    """Log-sum-exp over candidates a chunk of rows at a time; the queries' gradient is made on the way.

    The candidates' needs the scores again: a second product costs less than fresh memory for all of them.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, candidates: Tensor, columns: Tensor, offset: Tensor) -> Tensor:
        found, slopes = queries.new_empty(len(queries)), torch.empty_like(queries)
        for part, scores in _chunks(queries, candidates, columns, offset):
            highest = scores.amax(1)
            weights = scores.sub_(highest[:, None]).exp_()
            mass = weights.sum(1)
            found[part] = mass.log() + highest
            slopes[part] = product(weights, candidates.T) / mass[:, None]
        ctx.save_for_backward(slopes, found, queries, candidates, columns, offset)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, found, queries, candidates, columns, offset = ctx.saved_tensors
        pull = grads[0][:, None]
        moved = None
        if ctx.needs_input_grad[1]:
            moved = candidates.new_zeros(candidates.T.shape)
            for part, scores in _chunks(queries, candidates, columns, offset):
                shares = scores.sub_(found[part, None]).exp_()
                add_product(moved, (queries[part] * pull[part]).T, shares.T)
        return pull * slopes, None if moved is None else moved.T, None, None


def _chunks(
    queries: Tensor, candidates: Tensor, columns: Tensor, offset: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Scores [n, M] of n rows at a time, in memory that the next chunk overwrites; own columns are -inf."""
    rows = max(LEAST, SCORES.get(queries.device.type, 1 << 20) // max(len(candidates), 1))
    room = queries.new_empty(min(rows, len(queries)), len(candidates))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        column = columns[part]
        scores = product(queries[part], candidates, offset, room=room[: len(column)])
        own_row = torch.nonzero(column >= 0).squeeze(1)
        scores[own_row, column[own_row]] = -torch.inf
        yield part, scores


def partition_among(
    queries: Tensor, candidates: Tensor, columns: Tensor, offset: float | Tensor = 0.0
) -> Tensor:
    """Log-sum-exp of each query's inner products with the candidates, without storing them: float [Q].

    Args:
        queries: float [Q, D].
        candidates: float [M, D], M >= 2.
        columns: int64 [Q]: a candidate that does not count for the row, -1 for none.
        offset: as in `softmax_loss`; has no gradient.
    """
    added = torch.as_tensor(offset, dtype=queries.dtype, device=queries.device).expand(len(candidates))
    partition: Tensor = _PartitionAmong.apply(queries, candidates, columns, added)
    return partition


class _Competition(torch.autograd.Function):
    """Softmax over a batch's own candidates; no [Q, Q] array outlives a chunk, gradients are made on the way."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, candidates: Tensor, level: Tensor, rest: Tensor, forbidden: Tensor
    ) -> Tensor:
        loss, count = queries.new_zeros(()), len(queries)
        grad_queries, grad_candidates = torch.empty_like(queries), candidates.new_zeros(candidates.T.shape)
        grad_level, grad_rest = torch.zeros_like(level), torch.empty_like(rest)
        nobody = torch.full((count,), -1, device=queries.device)
        for part, scores in _chunks(queries, candidates, nobody, level):
            own = scores.diagonal(part.start).clone()
            scores.masked_fill_(forbidden[part], -torch.inf).diagonal(part.start).copy_(own)
            highest = torch.maximum(scores.amax(1), rest[part])
            weights, left = scores.sub_(highest[:, None]).exp_(), (rest[part] - highest).exp_()
            mass = weights.sum(1) + left
            loss += (mass.log() + highest - own).sum()
            pull = weights.div_(mass[:, None])
            pull.diagonal(part.start).sub_(1)
            grad_queries[part], grad_rest[part] = product(pull, candidates.T), left / mass
            add_product(grad_candidates, queries[part].T, pull.T)
            grad_level += pull.sum(0)
        found = (grad_queries, grad_candidates.T, grad_level, grad_rest)
        ctx.save_for_backward(*(gradient / count for gradient in found))
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(grads[0] * gradient for gradient in ctx.saved_tensors), None


def competition_loss(
    queries: Tensor,
    candidates: Tensor,
    forbidden: Tensor,
    *,
    level: Tensor | None = None,
    rest: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of each query's own candidate among those of all queries.

    Args:
        queries: float [Q, D].
        candidates: float [Q, D]; number q is the right answer of query q.
        forbidden: bool [Q, Q]: candidates that must not compete; the diagonal is always kept.
        level: float [Q], added to the scores of each candidate.
        rest: float [Q], for each query the log of the mass of all others that compete.

    Returns:
        Scalar, nats. Rows without any negative count as 0.
    """
    level = queries.new_zeros(len(candidates)) if level is None else level
    rest = queries.new_full((len(queries),), -torch.inf) if rest is None else rest
    loss: Tensor = _Competition.apply(queries, candidates, level, rest, forbidden)
    return loss


def cycle_loss(
    rebuilt: Tensor,
    original: Tensor,
    candidates: Tensor,
    columns: Tensor,
    *,
    temperature: float,
    offset: float | Tensor = 0.0,
) -> Tensor:
    """Penalise vectors rebuilt through the other side that are mistaken for somebody else's.

    Args:
        rebuilt: float [Q, D].
        original: float [Q, D], what each row was rebuilt from; gradients stop here.
        candidates: float [M, D], who they may be mistaken for; gradients stop here.
        columns: int64 [Q]: which candidate is the row's original, -1 for none.
        temperature: divides cosine logits; > 0, dimensionless.
        offset: as in `softmax_loss`, for candidates that were drawn.

    Returns:
        Scalar mean negative log-likelihood in nats: 0 is a perfect round trip, log(M) is no
        better than chance.

    Raises:
        ValueError: dimensions differ, M < 2, or temperature <= 0.

    Source: Huang, "Revisiting Self-Attentive Sequential Recommendation", section 4.4.
    """
    if rebuilt.shape[1] != candidates.shape[1] or candidates.shape[0] < 2 or temperature <= 0:
        raise ValueError("cycle_loss needs equal dimensions, two candidates or more, and a temperature > 0")
    queries = functional.normalize(rebuilt, dim=1) / temperature
    own, others = (functional.normalize(vectors.detach(), dim=1) for vectors in (original, candidates))
    return softmax_loss(queries, own, others, columns, offset=offset)[0]
