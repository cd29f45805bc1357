"""How often somebody acted lately, as one number that inner-product search can carry.

    log A(t) = log of the sum over past events k of exp(-(t - t_k) / seconds)

counts events that fade. With a weight it is the popularity in an item's vector and the activity in a
user's. As time goes by without events every log A falls by the same amount, so no order changes and what is
stored stays exact: only who acts has to be written again. Who has not acted for 30 fading times counts as
never.

Shapes: E events, N rows of a side, B moments.
"""

from __future__ import annotations

import numpy as np

FLOOR = -30.0  # log A of nobody: far below anybody who acts, and no burden on the precision of a score
_MICROSECONDS = 1e6


class FadingCounts:
    """Fading counts of the rows of one side.

    Args:
        owner: int [E], rows.
        time: int64 [E], microseconds.
        num_owners: N.
        seconds: fading time, > 0.
    """

    def __init__(self, owner: np.ndarray, time: np.ndarray, num_owners: int, seconds: float) -> None:
        order = np.lexsort((time, owner))
        self.seconds, self._time = seconds, time[order]
        counts = np.bincount(owner, minlength=num_owners)
        self._start = np.concatenate(([0], np.cumsum(counts)))
        self._after = _log_after(owner[order].astype(np.float64), self._time, seconds)

    def at(self, moments: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """log A of every row at each moment, float32 [B, N], not below FLOOR.

        Args:
            moments: int64 [B], microseconds.
            counts: int64 [B, N], how many events of each row lie before each moment.
        """
        return self._faded(self._start[:-1] + counts - 1, counts, moments[:, None])

    def of(self, owners: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """log A of owners int [Q], each strictly before its own moment int64 [Q]: float32 [Q]."""
        start = self._start[owners]
        counts = self._places(owners, moments) - start
        return self._faded(start + counts - 1, counts, moments)

    def now(self, moment: int) -> np.ndarray:
        """log A of every row with all events counted, none of them after `moment`: float32 [N]."""
        return self.at(np.array([moment]), np.diff(self._start)[None])[0]

    def _places(self, owners: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Where each (owner, moment) would go among the sorted events, before its equals: int64 [Q]."""
        times, place = np.unique(self._time, return_inverse=True)
        width = len(times) + 1
        keys = np.repeat(np.arange(len(self._start) - 1), np.diff(self._start)) * width + place
        return np.searchsorted(keys, owners.astype(np.int64) * width + np.searchsorted(times, moments))

    def _faded(self, last: np.ndarray, counts: np.ndarray, moments: np.ndarray) -> np.ndarray:
        if not len(self._time):
            return np.full(np.broadcast_shapes(last.shape, moments.shape), FLOOR, np.float32)
        place = last.clip(min=0)
        faded = self._after[place] - (moments - self._time[place]) / (_MICROSECONDS * self.seconds)
        return np.where(counts > 0, np.maximum(faded, FLOOR), FLOOR).astype(np.float32)


def _log_after(owner: np.ndarray, time: np.ndarray, seconds: float) -> np.ndarray:
    """log A just after each event, float64 [E], of events sorted by owner, then time.

    One pass over all owners: each lies so much higher than the one before that nothing of that remains.
    """
    if not len(time):
        return np.zeros(0)
    elapsed = (time - time.min()) / (_MICROSECONDS * seconds)
    height = elapsed + owner * (elapsed.max() + 60.0)
    return np.logaddexp.accumulate(height) - height
