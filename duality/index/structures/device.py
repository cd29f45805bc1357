"""Exact search and the grouping of vectors on a device that torch knows, when asked for.

Torch is imported by the first call only; queries start without it.

Shapes: N vectors, Q queries, L groups, k results, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import InputError, MissingExtraError
from duality.index.structures.coarse import Coarse, lengthened
from duality.index.structures.matrix import Keys, Matrix, Matrix32
from duality.index.structures.results import Found, merged, nothing, widened

# Scores of one block on the device: half a gigabyte.
BLOCK_SCORES = 1 << 27


def scan_on(device: str, matrix: Matrix, queries: Matrix32, k: int, positions: Keys | None) -> Found:
    """Best k positions per query, all scored on the device, block by block.

    Args:
        device: as torch names it: "cuda", "cuda:1", "cpu".
        matrix: the vectors.
        queries: float32 [Q, D].
        k: results per query.
        positions: int64, where to look; None for everywhere.

    Raises:
        InputError: there is no such device.
        MissingExtraError: torch is not installed.
    """
    torch = _torch(device)
    asked = torch.from_numpy(np.ascontiguousarray(queries)).to(device)
    found, start = nothing(len(queries)), 0
    for block in matrix.blocks(positions):
        for rows in _parts(block, len(queries)):
            part = _best_of(torch, asked, torch.from_numpy(np.array(rows)).to(device), k)
            where = part[1] + start
            found = merged(found, (part[0], where if positions is None else positions[where]), k)
            start += len(rows)
    return widened(found, k)


def kmeans_on(device: str, sample: Matrix32, nlist: int, rounds: int, seed: int) -> Matrix32:
    """Centroids float32 [L, D] of sample [N, D], N >= L; empty groups take a vector of the sample."""
    torch = _torch(device)
    points = torch.from_numpy(sample).to(device)
    chooser = np.random.default_rng(seed)
    centroids = points[torch.from_numpy(chooser.choice(len(sample), nlist, replace=False)).to(device)]
    for _ in range(rounds):
        groups = _groups(torch, points, centroids)[0]
        sums = torch.zeros_like(centroids).index_add_(0, groups, points)
        sizes = torch.bincount(groups, minlength=nlist)
        means = sums / sizes.clamp(min=1)[:, None]
        again = points[torch.from_numpy(chooser.choice(len(sample), nlist, replace=False)).to(device)]
        centroids = torch.where((sizes > 0)[:, None], means, again)
    return centroids.cpu().numpy()


def assigner_on(device: str, coarse: Coarse) -> Callable[[Matrix32], tuple[NDArray[np.int32], Matrix32]]:
    """`coarse.assign` on the device."""
    torch = _torch(device)
    centroids = torch.from_numpy(coarse.centroids).to(device)

    def assign(vectors: Matrix32) -> tuple[NDArray[np.int32], Matrix32]:
        points = torch.from_numpy(lengthened(vectors, coarse.radius)).to(device)
        groups, distances = _groups(torch, points, centroids)
        return groups.int().cpu().numpy(), distances.cpu().numpy()

    return assign


@functools.cache
def _torch(device: str) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device} cannot be used ({reason}): leave it out, or give cpu") from None
    return torch


def _parts(rows: Matrix32, queries: int) -> list[Matrix32]:
    size = max(1, BLOCK_SCORES // max(queries, 1))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _best_of(torch: Any, queries: Any, rows: Any, k: int) -> Found:
    scores, found = torch.topk(queries @ rows.T, min(k, len(rows)), dim=1)
    return scores.cpu().numpy(), found.cpu().numpy()


def _groups(torch: Any, points: Any, centroids: Any) -> tuple[Any, Any]:
    """Nearest centroid of each point and the squared distance to it."""
    halves = 0.5 * (centroids * centroids).sum(dim=1)
    size = max(1, BLOCK_SCORES // len(centroids))
    groups, distances = [], []
    for block in torch.split(points, size):
        best, group = torch.max(block @ centroids.T - halves, dim=1)
        groups.append(group)
        distances.append(((block * block).sum(dim=1) - 2 * best).clamp(min=0))
    return torch.cat(groups), torch.cat(distances)
