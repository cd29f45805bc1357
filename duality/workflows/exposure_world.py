"""Both sides as vectors with what was seen: what `duality exposure` measures lists on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from scipy import sparse

from duality.data.dataset import Dataset
from duality.errors import InputError, suggestion
from duality.evaluation.queries import USER_TO_ITEM

if TYPE_CHECKING:
    from duality.index.side import Side

# A log-probability that exponentiates to zero.
NOBODY = -1e9


@dataclass(frozen=True, eq=False)
class Market:
    """Who asks, who answers, and what is known of both.

    Attributes:
        asking, answering: float32 [Q, D] and [I, D], stored form.
        seen: sparse bool [Q, I], visible pairs.
        given: int64 [I], visible interactions of each answering row.
        answers: attributes of the answering side, [I] rows.
        row, target: int64 [T], hidden events: the asking row and the answering row; empty without any.
        words: where the vectors come from and what was visible.
    """

    asking: np.ndarray
    answering: np.ndarray
    seen: sparse.csr_matrix
    given: np.ndarray
    answers: pa.Table
    row: np.ndarray
    target: np.ndarray
    words: dict[str, str]


def market_of_model(model: Path, data: Path | None, direction: str) -> Market:
    """Vectors from a model at its test split: everything but the test events is visible."""
    import torch

    from duality.data.histories import user_histories
    from duality.data.splits import split_named
    from duality.embeddings import item_tables, stored_users, user_states
    from duality.model.folder import ModelFolder
    from duality.runtime import num_threads
    from duality.workflows.build import model_for
    from duality.workflows.train import dataset_of

    torch.set_num_threads(num_threads())
    folder = ModelFolder.open(model)
    dataset = dataset_of(folder, data)
    network = model_for(folder, dataset)
    name = folder.config["split"]["name"]
    division = split_named(dataset, name)
    visible = division.visible("test")
    vectors, items = item_tables(network, dataset, visible)
    users = stored_users(network, user_states(network, dataset, user_histories(dataset, visible), vectors))
    words = {"source": f"model {folder.fingerprint}", "visible": f"all but the test events of {name}"}
    return _market(dataset, visible, division.hidden("test"), (users, items), direction, words)


def market_of_index(index: Path, data: Path | None, direction: str) -> Market:
    """Stored vectors of an index, scored exactly; all events are visible.

    What the index no longer holds is not listed for anybody.

    Raises:
        InputError: the index has no dataset behind it, or lacks some of those who ask.
    """
    from duality.workflows.index import Index

    with Index.open(index, data=data) as opened:
        dataset = opened.dataset
        if dataset is None:
            raise InputError(f"{index} was built without a dataset: name one with --data")
        forward = direction == USER_TO_ITEM
        users = _stored(opened.users, dataset.user_ids.ids(range(dataset.num_users)), forward, -2)
        items = _stored(opened.items, dataset.item_ids.ids(range(dataset.num_items)), not forward, -1)
    words = {"source": f"index {index}, its stored vectors, scored exactly", "visible": "all events"}
    visible, hidden = np.ones(dataset.num_events, dtype=bool), np.empty(0, dtype=np.int64)
    return _market(dataset, visible, hidden, (users, items), direction, words)


def _stored(side: Side, ids: list[str], asking: bool, level: int) -> np.ndarray:
    """Vectors of a side, float32 [N, D]; what answers and is missing scores NOBODY with everybody.

    Args:
        level: the place of a stored vector that is multiplied by 1 on the other side.
    """
    if asking:
        return side.vectors(ids)
    held = np.isin(ids, side.get(ids)[1], invert=True)
    vectors = np.zeros((len(ids), side.dim), np.float32)
    vectors[~held, level] = NOBODY
    vectors[held] = side.vectors([id for id, here in zip(ids, held) if here])
    return vectors


def _market(
    dataset: Dataset,
    visible: np.ndarray,
    hidden: np.ndarray,
    vectors: tuple[np.ndarray, np.ndarray],
    direction: str,
    words: dict[str, str],
) -> Market:
    forward = direction == USER_TO_ITEM
    ends = np.asarray(dataset.event_user), np.asarray(dataset.event_item)
    asks, answers = ends if forward else ends[::-1]
    asking, answering = vectors if forward else vectors[::-1]
    shape = len(asking), len(answering)
    pairs = (np.ones(int(visible.sum()), dtype=bool), (asks[visible], answers[visible]))
    seen = sparse.csr_matrix(pairs, shape=shape, dtype=bool)
    seen.sum_duplicates()
    new = ~np.asarray(seen[asks[hidden], answers[hidden]]).ravel().astype(bool) if len(hidden) else hidden > 0
    return Market(
        asking,
        answering,
        seen,
        np.bincount(answers[visible], minlength=shape[1]),
        dataset.items() if forward else dataset.users(),
        asks[hidden][new].astype(np.int64),
        answers[hidden][new].astype(np.int64),
        words,
    )


def providers(table: pa.Table, column: str | None) -> tuple[np.ndarray, int]:
    """Provider of each row: int64 [I] (-1 where the column is empty) and how many there are.

    Without a column every row is its own provider.

    Raises:
        InputError: no such column, or one that holds lists.
    """
    if column is None:
        return np.arange(len(table)), len(table)
    if column not in table.column_names:
        near = suggestion(column, table.column_names)
        raise InputError(f"no column '{column}'{near}: there are {', '.join(table.column_names)}")
    values = table.column(column)
    if pa.types.is_nested(values.type):
        raise InputError(
            f"--provider {column}: an item must belong to one provider, and this column holds lists"
        )
    coded = values.combine_chunks().dictionary_encode()
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), len(coded.dictionary)
