"""One division of the events into those that train, choose and judge.

Shapes: E events of the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Split:
    """One division of the events.

    Args:
        name: "leave-one-out", "temporal", "cold-item", "cold-user" or "file:PATH".
        train: bool [E], events that the weights may see.
        validation: int64 events that choose epochs and settings.
        test: int64 events that are looked at once, at the end.
        cold: rows of the items (or users) that are removed altogether, ascending; None for other splits.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    cold: np.ndarray | None = None

    def hidden(self, part: str) -> np.ndarray:
        """Events to be predicted in `part` ("validation" or "test")."""
        return self.test if part == "test" else self.validation

    def visible(self, part: str) -> np.ndarray:
        """bool [E]: events that may serve as history when `part` is predicted."""
        visible = self.train.copy()
        if part == "test":
            visible[self.validation] = True
        return visible
