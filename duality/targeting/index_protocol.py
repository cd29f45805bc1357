"""What a targeting run needs of an index.

Shapes: U users, N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np


class UserSource(Protocol):
    """Users with their stored vectors."""

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """All ids and vectors float32 [n, D], in the order of ids, some at a time."""

    def ids_where(self, where: str) -> Iterable[str]:
        """Ids of the users that match a filter; FilterError where it does not fit."""


class ItemSource(Protocol):
    """Items with their stored vectors."""

    def get_vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Vectors float32 [N, D] in the order asked; UnknownIdError for an unknown id."""

    def matching(self, where: str) -> tuple[Sequence[str], np.ndarray]:
        """Ids and vectors float32 [N, D] of the items that match."""


class TargetingIndex(Protocol):
    """Users, items, and what they are worth as probabilities."""

    @property
    def users(self) -> UserSource: ...

    @property
    def items(self) -> ItemSource: ...

    def probabilities(self, scores: np.ndarray, users: Sequence[str]) -> np.ndarray:
        """Calibrated probabilities float64 [U, N] of scores float [U, N], a row per user.

        Raises InputError where there is no score calibration. Only asked for when a run wants it.
        """

    def nearest(self, vector: np.ndarray, k: int) -> Iterable[str]:
        """Ids of k users whose inner product with a vector float32 [D] is large, as the index finds them."""

    def log_rates(self, ids: Sequence[str], days: float) -> np.ndarray:
        """What turns log p(item | user) into the log of takes a day, float32 [U]: only asked for when a run wants it.

        Args:
            days: fading time of the events that count.

        Raises InputError where the index has no histories, or these no time.
        """

    def takes(self, items: Sequence[Sequence[str]], days: float) -> tuple[np.ndarray, float] | None:
        """Events a day of each set of items lately, float64 [len(items)], and of all items; None where nobody knows.

        Args:
            days: fading time of the events that count.
        """

    @property
    def moment(self) -> int:
        """Microseconds since 1970: how far the index knows; where a campaign does not say when it begins."""

    @property
    def about(self) -> dict[str, Any]:
        """Where the vectors come from: model, dataset, how far they know."""

    @property
    def fingerprint(self) -> str:
        """Identity of the stored vectors and attributes."""
