"""A measured curve over ranks: how far to search for the nearest r vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Curve:
    """Straight lines between measured points, in logarithms; level beyond the first and the last.

    Args:
        points: (rank, value), both positive and rising.
    """

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self._ranks = np.log([rank for rank, _ in points])
        self._values = np.log([value for _, value in points])

    def at(self, ranks: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Values for ranks >= 1."""
        return np.exp(np.interp(np.log(ranks), self._ranks, self._values))


def curve_in(settings: Mapping[str, Any], name: str, highest: float) -> Curve:
    """The curve that a build left in the settings, values up to `highest`.

    Raises:
        ValueError: it is not a rising curve within these bounds.
    """
    points = settings.get(name)
    if not isinstance(points, list) or not 1 <= len(points) <= 100:
        raise ValueError(f"setting {name} is {points!r}")
    values = np.array(points, np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError(f"setting {name} holds something other than pairs of numbers")
    rising = (np.diff(values, axis=0) >= 0).all() and (np.diff(values[:, 0]) > 0).all()
    if not rising or values.min() <= 0 or values[0, 0] < 1 or values[-1, 1] > highest:
        raise ValueError(f"setting {name} does not rise within its bounds")
    return Curve([(rank, value) for rank, value in values.tolist()])
