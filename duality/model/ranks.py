"""Who encodes which sequences of a step: one process all of them, several a share each.

Every process has the whole batch, encodes its share of the sequences and gets everybody's states where a loss reads
them. Losses over all states are the same everywhere and count 1 / world; the loss of the next item, the dearest, is
split by rows. What the processes add up to is the loss of one (`duality.training.distributed`).

Shapes: P rows of a batch, W states' width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from duality.encoders.base import Layout

Encode = Callable[[Tensor, Layout], Tensor]


class Alone:
    """A single process."""

    rank, world = 0, 1

    def encode(self, encode: Encode, rows: Tensor, layout: Layout, empty: Tensor) -> tuple[Tensor, slice]:
        """States of this process's own rows, and which those are.

        Args:
            encode: rows float [p, D] of some sequences and their layout to states float [p, W].
            rows: float [P, D].
            layout: where the sequences lie.
            empty: float [W], only its width counts.
        """
        return encode(rows, layout), slice(None)

    def everybody(self, own: Tensor) -> Tensor:
        """States of all rows, float [P, W], given what the last `encode` made; gradients go back to who made them."""
        return own

    def gather(self, own: Tensor) -> Tensor:
        """Everybody's rows [P], given those of this process's own; no gradient."""
        return own

    def total(self, own: Tensor) -> Tensor:
        """The sum of everybody's; no gradient."""
        return own

    def add_gradients(self, parameters: list[Parameter]) -> None:
        """Every parameter's gradient becomes the sum of everybody's; None where nobody has one."""

    def add(self, values: dict[str, float], device: str) -> dict[str, float]:
        """Sums over the processes by name; the same names everywhere."""
        return values

    def first_says(self, make: Callable[[], Any], device: str) -> Any:
        """What the first process makes, a JSON value, told to all."""
        return make()
