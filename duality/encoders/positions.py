"""Where a row lies: rotary positions, by which attention sees only how far back, and slots that rows are learned for.

Source: Su et al., "RoFormer" (2021), section 3.2; Huang, "Revisiting Self-Attentive Sequential
Recommendation", 3.3: a position belongs to the prediction, not to the start of the history.

Shapes: P packed rows, H heads, K dimensions of a head (even).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from duality.encoders.base import Layout, packed_positions

LONGEST = 1 << 14  # places that a table is kept for


def slots(layout: Layout, most: int, from_oldest: bool, device: torch.device) -> Tensor:
    """Slots int64 [P] of sequences of at most `most` rows: the oldest row has the first one, as if padding were on the
    right, or the newest the last one, as if it were on the left."""
    positions = packed_positions(layout, device)
    if from_oldest:
        return positions
    lengths = torch.from_numpy(layout.lengths).to(device)
    return positions + (most - lengths).repeat_interleave(lengths)


def rotations(
    positions: Tensor, head_dim: int, of: torch.dtype = torch.float32, *, base: float = 10_000.0
) -> Tensor:
    """Unit complex numbers that turn each row by its position.

    Args:
        positions: int64 [P].
        head_dim: K, even.
        of: what will be turned; float64 is turned by complex128.
        base: longest wavelength in rows, divided by 2π.

    Returns:
        complex64 (or 128) [P, K / 2]. Angles are taken in float64: in float32 a row 10,000 back would be
        off by 1e-3 radians.
    """
    # A batch has thousands of rows at a few hundred places.
    if positions.device.type == "cpu" and len(positions) > 0 and (last := int(positions.max())) < LONGEST:
        return _table(1 << last.bit_length(), head_dim, of, base)[positions]
    return _turns(positions, head_dim, of, base)


@lru_cache(maxsize=8)
def _table(length: int, head_dim: int, of: torch.dtype, base: float) -> Tensor:
    return _turns(torch.arange(length), head_dim, of, base)


def _turns(positions: Tensor, head_dim: int, of: torch.dtype, base: float) -> Tensor:
    frequency = base ** (
        -torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    )
    angle = positions.to(torch.float64)[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle).to(
        torch.complex128 if of == torch.float64 else torch.complex64
    )


def rotate(rows: Tensor, turns: Tensor) -> Tensor:
    """Turn queries or keys; the product of two then depends on their distance only.

    Args:
        rows: float [P, ..., K]; neighbouring dimensions form a complex number.
        turns: complex [P, K / 2] from `rotations`.
    """
    wide = rows.float() if rows.dtype == torch.bfloat16 else rows  # complex numbers have no bfloat16
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous())
    shape = (turns.shape[0],) + (1,) * (pairs.dim() - 2) + (turns.shape[1],)
    return torch.view_as_real(pairs * turns.view(shape)).flatten(-2).to(rows.dtype)
