"""Scores of logged impressions, each by the user's state strictly before it.

The weights are those of the model; an impression is used only if it is later than every event that
trained them. The state of its user holds all of the user's events before the impression's moment,
none at it or after it.

Shapes: N impressions, E events, U users, I items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duality.data.batches import row_batches
from duality.data.dataset import Dataset
from duality.data.histories import user_histories
from duality.data.outcomes import Column, read_outcomes
from duality.embeddings import ROWS, fading_counts, item_tables, layout_of, stored_users
from duality.errors import InputError
from duality.model.two_sided import TwoSided
from duality.runtime import progress

BLOCK = 100_000  # impressions scored at once
# Names as `data/columns.py` knows them for logs of events.
USER = ("user_id", "user", "uid", "visitor_id", "customer_id", "member_id")
ITEM = ("item_id", "item", "iid", "movie_id", "product_id", "video_id", "asin")
TIME = ("time_us", "timestamp_us", "time_ms", "timestamp_ms", "time", "timestamp", "ts", "datetime", "date")
LABEL = ("label", "is_click", "click", "clicked", "outcome")


@dataclass(frozen=True, eq=False)
class Impressions:
    """Impressions that can be scored, oldest first.

    Attributes:
        user: int64 [N], dense rows; users without a row in the dataset are numbered from U on.
        item: int64 [N], dense rows.
        time: int64 [N], microseconds UTC.
        outcome: float64 [N] of 0 and 1.
        dropped: {reason: rows}.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    outcome: np.ndarray
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, eq=False)
class Scored:
    """What the model says of impressions.

    Attributes:
        score: float64 [N], log p(item | user) and the model's popularity and activity, as an index adds them.
        raw: float64 [N], the inner product without the user's partition.
        known: int64 [N], events of the user strictly before the impression.
    """

    score: np.ndarray
    raw: np.ndarray
    known: np.ndarray


def read_impressions(
    path: Path, dataset: Dataset, after: int, columns: Mapping[str, str | None], where: str | None = None
) -> Impressions:
    """Read a log of impressions.

    Args:
        path: a file with user, item, time and a label; positive is anything above 0, or true.
        after: microseconds UTC; impressions at or before it are dropped.
        columns: role ("user", "item", "time", "label") to a column, where names are unusual.
        where: keep only rows that meet this filter expression.

    Raises:
        DataError: the file does not fit; file, row and column are named.
        InputError: no impression is left; the message says why they went.
    """
    usual = {"user": USER, "item": ITEM, "time": TIME, "label": LABEL}
    kinds = {"user": "id", "item": "id", "time": "time", "label": "number"}
    wanted = {
        role: Column(
            kinds[role], names, columns.get(role), "--label" if role == "label" else f"--{role}-column"
        )
        for role, names in usual.items()
    }
    found = read_outcomes(path, wanted, where)
    found.refuse(~np.isfinite(found.values["label"]), "label", "a label must be a number or true/false")
    item = np.asarray(dataset.item_ids.find(found.values["item"]), np.int64)
    user = _users(dataset, found.values["user"])
    time = found.values["time"]
    early, unknown = time <= after, item < 0
    dropped = {
        "not after the training events": int(early.sum()),
        "item unknown": int((unknown & ~early).sum()),
    }
    kept = np.flatnonzero(~early & ~unknown)
    if not len(kept):
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in dropped.items() if count)
        raise InputError(
            f"{path}: no impression is left ({reasons}): train with `--set split.name=temporal`, so that the "
            "weights leave the last part of the log to calibrate on"
        )
    kept = kept[np.argsort(time[kept], kind="stable")]
    outcome = (found.values["label"][kept] > 0).astype(np.float64)
    return Impressions(user[kept], item[kept], time[kept], outcome, dropped)


def _users(dataset: Dataset, ids: list[str]) -> np.ndarray:
    """Dense rows; ids without one get numbers from U on, one each."""
    rows = np.asarray(dataset.user_ids.find(ids), np.int64)
    new = np.flatnonzero(rows < 0)
    names = np.array([ids[place] for place in new], dtype=object)
    rows[new] = dataset.num_users + np.unique(names, return_inverse=True)[1]
    return rows


def known_events(dataset: Dataset, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """How many events each user has strictly before a moment: int64 [N]; 0 for rows from U on."""
    assert dataset.event_time is not None
    moments, place = np.unique(np.asarray(dataset.event_time), return_inverse=True)
    width = len(moments) + 1
    keys = np.asarray(dataset.event_user, np.int64) * width + place
    asked = user * width + np.searchsorted(moments, time, side="left")
    indptr = np.asarray(dataset.user_indptr)
    inside = user < dataset.num_users
    start = indptr[np.where(inside, user, 0)]
    return np.where(inside, np.searchsorted(keys, asked, side="left") - start, 0)


@torch.inference_mode()
def states_after_events(model: TwoSided, dataset: Dataset, vectors: Tensor) -> Tensor:
    """The user's state just after each event, float32 [E, D].

    Args:
        vectors: float32 [I, D], the item vectors that histories are made of.
    """
    histories = user_histories(dataset, np.ones(dataset.num_events, dtype=bool))
    states = torch.zeros(dataset.num_events, model.dim)
    with progress(dataset.num_events, "encoding users", unit="events") as bar:
        for owners in row_batches(histories, ROWS):
            events, lengths = histories.packed(owners)
            items = torch.from_numpy(dataset.event_item[events].astype(np.int64))
            states[torch.from_numpy(events)] = model.user_states(
                vectors[items], layout_of(model, dataset, events, lengths, dataset.event_user), prefixes=True
            )
            bar.advance(len(events))
    return states


@torch.inference_mode()
def score_impressions(
    model: TwoSided, dataset: Dataset, impressions: Impressions, train: np.ndarray
) -> Scored:
    """Scores of impressions by what was known just before each.

    Args:
        train: bool [E], events that trained the weights; items without one are made from them too.
    """
    vectors, items = item_tables(model, dataset, train)
    after = states_after_events(model, dataset, vectors)
    known = known_events(dataset, impressions.user, impressions.time)
    rows = np.asarray(dataset.user_indptr)[np.minimum(impressions.user, dataset.num_users - 1)] + known - 1
    scores, raw = np.empty(len(impressions)), np.empty(len(impressions))
    lately = _lately(model, dataset, impressions, known)
    for start in range(0, len(impressions), BLOCK):
        part = slice(start, start + BLOCK)
        chosen = after[torch.from_numpy(rows[part].clip(min=0))]
        some = torch.from_numpy(known[part] > 0)[:, None]
        states = torch.where(some, chosen, model.empty_user)
        users, shown = stored_users(model, states), items[impressions.item[part]]
        scores[part] = np.einsum("nd,nd->n", users, shown, dtype=np.float64)
        raw[part] = scores[part] - users[:, model.dim] * shown[:, model.dim]
        scores[part] += lately[part]
    return Scored(scores, raw, known)


def _lately(model: TwoSided, dataset: Dataset, impressions: Impressions, known: np.ndarray) -> np.ndarray:
    """Popularity of the item and activity of the user strictly before each impression, float32 [N].

    Users without an event count as active, as a raw history does that is asked about.
    """
    found = np.zeros(len(impressions), np.float32)
    popularity = fading_counts(model.popularity, dataset, dataset.event_item, dataset.num_items)
    if popularity is not None:
        found += popularity[0] * popularity[1].of(impressions.item, impressions.time)
    activity = fading_counts(model.activity, dataset, dataset.event_user, dataset.num_users)
    if activity is not None:
        some = np.flatnonzero(known > 0)
        found[some] += activity[0] * activity[1].of(impressions.user[some], impressions.time[some])
    return found
