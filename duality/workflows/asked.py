"""A user as of a moment: for models whose user encoder is told when it is asked (`model.request_time`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from duality.errors import InputError, UnknownIdError

if TYPE_CHECKING:
    from duality.workflows.index import Index


def moment_of(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 time, UTC unless it names a zone.

    Raises:
        InputError: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--at {text}: write a time as 2024-05-01T12:30:00, in UTC") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    return round(seconds * 1e6)


def knows_request_time(index: Index) -> bool:
    """Whether the model behind an index is told when it is asked."""
    if not index.pair.manifest.get("model"):
        return False
    return bool(index.model_folder.config["model"].get("request_time", False))


def user_at(index: Index, user: str, moment: int) -> np.ndarray:
    """A user asked at a moment, stored form float32 [1, D + 3], activity as the index has it.

    Raises:
        UnknownIdError: the index does not hold the user.
        InputError: the index has no histories, or the model has changed.
    """
    # Here, because they need torch and a query by id alone does not.
    from duality.workflows.build import model_for
    from duality.workflows.fresh_vectors import user_vectors
    from duality.workflows.update import history_vectors

    stored = np.array(index.users.vectors([user]), np.float32)
    if index.dataset is None:
        raise InputError(f"{index.path} has no histories, and --at reads them again: give --data")
    row = np.asarray(index.dataset.user_ids.find([user]), np.int64)
    if row[0] < 0:
        raise UnknownIdError(f"user '{user}' has no history in {index.dataset.path}: ask without --at")
    model = model_for(index.model_folder, index.dataset)
    vectors = history_vectors(index, model, index.dataset, row)
    made = user_vectors(model, index.dataset, row, vectors, moment)
    known = model.dim + 1  # u and its partition
    return np.concatenate((made[:, :known], stored[:, known:]), axis=1)
