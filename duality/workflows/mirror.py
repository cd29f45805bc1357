"""The mirrored control: a one-sided network that was trained on the next user of every item.

`mirror` makes its data; `duality train --data MIRROR --set split.name=file:MIRROR/split.parquet` with the
losses of the item side at 0 trains it; `Mirror` asks it the original's item-to-user queries.

Hazard: validation while training asks the mirror user-to-item, where histories are not cut at the query.
        That can prefer another epoch; it shows the model nothing of the test part.

Shapes: U users, I items, E events of the original, H visible ones, D dimensions, B queries of a block.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.dataset import Dataset
from duality.data.histories import user_histories
from duality.data.mirror import original_events, write_mirror
from duality.data.splits import split_named
from duality.embeddings import user_states_after
from duality.errors import InputError
from duality.evaluation.past import Clock
from duality.evaluation.queries import ITEM_TO_USER, Queries
from duality.model.two_sided import TwoSided


def mirror(data: Path, split: str, out: Path) -> dict[str, Any]:
    """Write the mirror of a dataset and of its split; see `duality.data.mirror.write_mirror`.

    Args:
        data: dataset folder.
        split: "leave-one-out", "temporal", "cold-item", "cold-user" or "file:PATH".
        out: folder of the mirror.
    """
    dataset = Dataset.open(data)
    return write_mirror(dataset, split_named(dataset, split), out)


class Mirror:
    """An item's state after its visible users before the query, times the table of users.

    Users that training never saw have no row that means anything: they are left out of every history
    and score -inf.

    Args:
        model: trained on `mirrored`, whose items are the users of `dataset`.
        mirrored: the mirror of `dataset`.
        dataset: whose item-to-user queries are asked.
        visible: bool [E], events of `dataset` that may serve as history.

    Raises:
        InputError: the three do not belong together.
    """

    name = "mirror"

    def __init__(self, model: TwoSided, mirrored: Dataset, dataset: Dataset, visible: np.ndarray) -> None:
        if model.num_items != mirrored.num_items:
            raise InputError(
                f"a model of {model.num_items} items was not trained on {mirrored.path} "
                f"({mirrored.num_items} items): train one on it"
            )
        self.model, self.mirrored = model, mirrored
        known = model.trained.numpy()[mirrored.event_item]
        self.histories = user_histories(mirrored, visible[original_events(mirrored, dataset)] & known)
        self._row_of_item = mirrored.user_ids.find(dataset.items()["id"].to_pylist())
        self._row_of_user = mirrored.item_ids.find(dataset.users()["id"].to_pylist())

    @cached_property
    def _after(self) -> np.ndarray:
        """float32 [H + I, D]: each item after 0, 1, ... of its visible users, in turn."""
        table = self.model.item_table.detach()
        return user_states_after(self.model, self.mirrored, self.histories, table).numpy()

    @cached_property
    def _clock(self) -> Clock:
        """Visible events of the items in time order."""
        events, time = self.histories.event, self.mirrored.event_time
        assert time is not None
        return Clock(self.mirrored.event_user[events], time[events], self.mirrored.num_users)

    @cached_property
    def _users(self) -> tuple[np.ndarray, np.ndarray]:
        """The users' rows of the table, float32 [U, D], and which mean nothing, bool [U]."""
        table, row = self.model.item_table.detach().numpy(), self._row_of_user
        return table[row], (row < 0) | ~self.model.trained.numpy()[row]

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, U]."""
        if direction != ITEM_TO_USER or queries.time is None:
            raise InputError(f"{self.name} answers {ITEM_TO_USER} on logs with times only: leave it out here")
        item = self._row_of_item[queries.item[rows]]
        before = self._clock.counts(queries.time[rows])[np.arange(len(item)), item]
        vectors, unknown = self._users
        scores = self._after[self.histories.indptr[item] + item + before] @ vectors.T
        scores[:, unknown] = -np.inf
        return scores
