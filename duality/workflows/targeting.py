"""`duality target`: the index as a targeting run sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.artifacts import fingerprint
from duality.data.writing import iso
from duality.errors import MissingExtraError
from duality.index.side import Side
from duality.targeting.outcome import Outcome
from duality.workflows.index import Index


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
        self.users, self.items = pair.users, _Items(pair.items)
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
        known = self.users.attributes_of(people.names(people.sample))
        return page(outcome, document, self.about, known)

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
