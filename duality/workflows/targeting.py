"""`duality target`: the index as a targeting run sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import fingerprint
from duality.data.writing import iso
from duality.errors import InputError, MissingExtraError
from duality.index.side import Side
from duality.intensity import FadingCounts
from duality.targeting.outcome import Outcome
from duality.workflows.index import Index

_ACTIVITY = -2  # of a stored user, as in duality.embeddings, which would import torch


class _Users:
    """Users without what the model adds to those who were active a moment ago: a campaign is not for this moment.

    Args:
        made: whether a model made the vectors; those of another source hold nothing to leave out.
    """

    def __init__(self, side: Side, made: bool) -> None:
        self._side, self._made = side, made

    def blocks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        for ids, vectors in self._side.blocks():
            yield ids, self.without(vectors)

    def ids_where(self, where: str) -> Iterable[str]:
        return self._side.ids_where(where)

    def without(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, D] that meet no activity."""
        if not self._made:
            return vectors
        found = vectors.copy()
        found[:, _ACTIVITY] = 0
        return found

    def nearest(self, vector: np.ndarray, k: int) -> list[str]:
        ids, _ = self._side.search(self.without(vector[None]), k)
        return [name for name in ids[0].tolist() if name is not None]


class _Items:
    def __init__(self, side: Side) -> None:
        self._side = side

    def get_vectors(self, ids: Sequence[str]) -> np.ndarray:
        return self._side.vectors(ids)

    def matching(self, where: str) -> tuple[list[str], np.ndarray]:
        return self._side.matching(where)


class OpenedForTargeting:
    """Users with vectors, items by id, probabilities of scores, and the identity of all that."""

    def __init__(self, index: Index) -> None:
        pair, self._index = index.pair, index
        self._counted: tuple[float, np.ndarray] | None = None
        self.users = _Users(pair.users, pair.manifest.get("dataset") is not None)
        self.items = _Items(pair.items)
        model = pair.manifest.get("model") or {}
        dataset = pair.manifest.get("dataset") or {}
        self.moment = int((pair.manifest.get("extra") or {}).get("moment", 0))
        self.about = {
            "model": model.get("fingerprint"),
            "dataset": dataset.get("fingerprint"),
            "index_created": str(pair.manifest.get("created")),
            "newest_event": iso(self.moment) if self.moment else None,
        }
        self.fingerprint = fingerprint(
            str(model.get("fingerprint")),
            str(pair.manifest.get("created")),
            str(pair.users.version),
            str(pair.items.version),
        )

    def nearest(self, vector: np.ndarray, k: int) -> list[str]:
        """Ids of k users whose inner product with a vector float32 [D] is large, as the index finds them."""
        return self.users.nearest(vector, k)

    def page(self, outcome: Outcome, document: dict[str, Any]) -> str:
        """The report of a run on this index, as HTML.

        Raises:
            MissingExtraError: the extra `report` is not installed.
        """
        try:
            from duality.workflows.targeting_report import page
        except ImportError as error:
            raise MissingExtraError(error.name or "jinja2", "'duality[report]'") from None
        people = outcome.plan.people
        known = self._index.pair.users.attributes_of(people.names(people.sample))
        return page(outcome, document, self.about, known)

    def log_rates(self, ids: Sequence[str], days: float) -> np.ndarray:
        """What turns log p(item | user) into the log of takes a day, float32 [U]: how often users act.

        Half an event more than there were (Jeffreys) keeps users without any from being nobody.

        Raises:
            InputError: the index has no histories, or these no time.
        """
        rates = self._rates(days)
        data = self._index.dataset
        rows = np.asarray(data.user_ids.find(list(ids)), np.int64) if data is not None else np.empty(0)
        events = np.where(rows >= 0, np.exp(rates[rows]), 0.0)
        added: np.ndarray = np.log((events + 0.5) / days).astype(np.float32)
        return added

    def takes(self, items: Sequence[Sequence[str]], days: float) -> tuple[np.ndarray, float] | None:
        """Events a day of each set of items lately, float64 [len(items)], and of all items; None without histories, or
        times in them. Half an event more than there were keeps an item without any from being impossible.
        """
        data = self._index.dataset
        if data is None or data.event_time is None:
            return None
        counts = FadingCounts(
            np.asarray(data.event_item), np.asarray(data.event_time), data.num_items, days * 86_400
        )
        events = np.exp(counts.now(int(np.asarray(data.event_time).max())).astype(np.float64))
        found = []
        for names in items:
            rows = np.asarray(data.item_ids.find(list(names)), np.int64)
            found.append((events[rows[rows >= 0]].sum() + 0.5) / days)
        return np.array(found), float(events.sum() / days)

    def _rates(self, days: float) -> np.ndarray:
        """Log of the fading counts of every user of the dataset, float32."""
        data = self._index.dataset
        if data is None or data.event_time is None:
            raise InputError(
                f'{self._index.path} has no histories with times: scores = "log-intensity" counts how often users act'
            )
        if self._counted is None or self._counted[0] != days:
            counts = FadingCounts(
                np.asarray(data.event_user), np.asarray(data.event_time), data.num_users, days * 86_400
            )
            self._counted = days, counts.now(int(np.asarray(data.event_time).max()))
        return self._counted[1]

    def probabilities(self, scores: np.ndarray, users: Sequence[str]) -> np.ndarray:
        """Calibrated probabilities float64 [U, N] of scores float [U, N], a row per user.

        Raises:
            InputError: the index's model has no score calibration, or it needs histories and the
                index has none.
        """
        calibrated = self._index.calibration
        known = self._index.known_events(users)[:, None] if calibrated.uses_history else None
        return calibrated(scores, known)


def open_for_targeting(path: Path) -> OpenedForTargeting:
    """Open an index for `duality.targeting.run.target`.

    Raises:
        InputError: no index there.
    """
    return OpenedForTargeting(Index.open(path))
