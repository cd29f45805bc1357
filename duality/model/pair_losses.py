"""Losses of a positive against single negatives: BCE, gBCE and BPR, each in expectation over uniform negatives.

The published recipes draw k negatives for every positive (`own_negatives.py`). Here the rows of a batch share M
candidates, which stand for all N items by their weights, and the loss is the mean over them times k: the same
expectation with less noise, and one matrix product. With every item a candidate it is exact.

Shapes: P rows, M candidates, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from duality.encoders.products import linear
from duality.model.losses import LEAST, SCORES

PairKind = Literal["bce", "bpr"]


def gbce_power(per_positive: float, num_items: int, calibration: float) -> float:
    """The power beta of gBCE: sigma(s)^beta for a positive.

    Args:
        per_positive: k, negatives of each positive.
        num_items: N.
        calibration: t, 0 for plain BCE, 1 for fully calibrated.

    Source: Petrov and Macdonald, "gSASRec" (2023), 4.3: alpha = k / (N - 1),
    beta = alpha (t (1 - 1 / alpha) + 1 / alpha).
    """
    alpha = min(per_positive / (num_items - 1), 1.0)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def pair_loss(
    kind: PairKind,
    queries: Tensor,
    positives: Tensor,
    candidates: Tensor,
    columns: Tensor,
    weights: Tensor,
    *,
    per_positive: float = 1.0,
    power: float = 1.0,
) -> Tensor:
    """Mean loss over rows, in nats.

    Args:
        kind: "bce": softplus(-s) of the positive times `power` and, k times, the mean softplus(s) of
            negatives; "bpr": the mean softplus(s - s_positive).
        queries, positives: float [P, D].
        candidates: float [M, D], shared by all rows.
        columns: int64 [P]: which candidate is the row's own positive, -1 for none; it is no negative.
        weights: float [M], share of all items that each candidate stands for.
        per_positive: k of "bce".
        power: 1 for BCE, `gbce_power` for gBCE.

    Cost: scores exist one chunk at a time and are made again for the gradients.
    """
    rows = max(LEAST, SCORES.get(queries.device.type, 1 << 20) // max(len(candidates), 1))
    total = queries.new_zeros(())
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        shared = (candidates, columns[part], weights)
        total = total + checkpoint(
            _chunk, kind, queries[part], positives[part], *shared, per_positive, power, use_reentrant=False
        )
    return total / len(queries)


def _chunk(
    kind: PairKind,
    queries: Tensor,
    positives: Tensor,
    candidates: Tensor,
    columns: Tensor,
    weights: Tensor,
    per_positive: float,
    power: float,
) -> Tensor:
    own, scores = (queries * positives).sum(1), linear(queries, candidates)
    own_row = torch.nonzero(columns >= 0).squeeze(1)
    share = weights.expand_as(scores).clone()
    share[own_row, columns[own_row]] = 0.0
    if kind == "bpr":
        return (softplus(scores - own[:, None]) * share).sum()
    return per_positive * (softplus(scores) * share).sum() + power * softplus(-own).sum()
