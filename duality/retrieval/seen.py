"""Who met what already: read from a dataset's event arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from duality.data.dataset import Dataset


def seen_items(dataset: Dataset, user_id: str) -> list[str]:
    """Different items of a user's history, in dataset row order; none for an unknown user."""
    (row,) = dataset.user_ids.find([user_id])
    if row < 0:
        return []
    start, end = dataset.user_indptr[row : row + 2]
    return dataset.item_ids.ids(np.unique(dataset.event_item[start:end]))


def seen_users(dataset: Dataset, item_id: str) -> list[str]:
    """Different users of an item, in dataset row order; none for an unknown item."""
    (row,) = dataset.item_ids.find([item_id])
    if row < 0:
        return []
    start, end = dataset.item_indptr[row : row + 2]
    events = dataset.item_event[start:end]
    return dataset.user_ids.ids(np.unique(dataset.event_user[events]))
