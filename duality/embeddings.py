"""Embedding tables of both sides: what a model and the histories make, and what the index stores.

A stored user is [u, -log Z(u), activity, 1], a stored item [e, 1, 1, popularity]: their inner product is
log p(item | user) and both biases, so one search serves both directions and scores compare across users. An item
that training never saw is stored as [slope g, partition, 1, level + popularity], made by the item encoder from its
users and weighed by `duality.generated`; a trained item as a mixture of both, in which that has the share that
validation liked best.

Shapes: N rows, U users, I items, E events, D model dimensions; stored vectors have D + 3.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from duality.artifacts import atomic_file
from duality.data.batches import row_batches
from duality.data.dataset import Dataset
from duality.data.histories import Histories, item_histories, oldest, overlapping_windows, user_histories
from duality.encoders.base import Layout
from duality.generated import GROUPS, events_read, group_of, weigh
from duality.intensity import FadingCounts
from duality.model.two_sided import TwoSided
from duality.runtime import progress

Made = tuple[Tensor, np.ndarray, np.ndarray]  # what `generated_items` returns

ROWS = 16_000  # events encoded at once
STORED_EXTRA = 3  # values of a stored vector beyond the model's: partition, activity, level
ACTIVITY, LEVEL = -2, -1  # columns of users and of items that the biases are added to


def layout_of(
    model: TwoSided, dataset: Dataset, events: np.ndarray, lengths: np.ndarray, owner: np.ndarray
) -> Layout:
    """Where histories of events lie, when these happened, to whom, and what else the model knows of them.

    Args:
        owner: int32 [E], the dataset's column of users or of items: whose histories they are.
    """
    times = None if dataset.event_time is None else np.asarray(dataset.event_time[events])
    codes = None if model.event_codes is None else model.event_codes.of(dataset)
    context = None if codes is None else codes[events]
    return Layout(lengths, times, owners=np.asarray(owner[events]), context=context)


def user_layout(
    model: TwoSided,
    dataset: Dataset,
    events: np.ndarray,
    lengths: np.ndarray,
    newest: np.ndarray | int | None = None,
) -> Layout:
    """`layout_of` user histories; where the model is told when it is asked, each state by the event after it.

    Args:
        newest: microseconds, int64 [S] or one number: when the newest states are asked for; None: at once.
    """
    layout = layout_of(model, dataset, events, lengths, dataset.event_user)
    if not model.config.request_time:
        return layout
    return layout.asked_in_turn(None if newest is None else np.broadcast_to(newest, lengths.shape))


@torch.inference_mode()
def user_states(
    model: TwoSided,
    dataset: Dataset,
    histories: Histories,
    vectors: Tensor,
    asked: np.ndarray | int | None = None,
) -> Tensor:
    """Newest state of every owner of a history, float32 [S, D]; those without get the empty state.

    Args:
        vectors: float32 [I, D], the item vectors that histories are made of.
        asked: microseconds, int64 [S] or one number: when states are asked for (`user_layout`).
    """
    states = model.empty_user.detach().repeat(histories.num_owners, 1)
    moments = None if asked is None else np.broadcast_to(asked, histories.num_owners)
    with progress(len(histories.event), "encoding users", unit="events") as bar:
        for owners in row_batches(histories, ROWS):
            events, lengths = histories.packed(owners)
            newest = None if moments is None else moments[owners]
            layout = user_layout(model, dataset, events, lengths, newest)
            encoded = model.user_states(_rows(vectors, dataset.event_item[events]), layout)
            states[torch.from_numpy(owners)] = encoded[torch.from_numpy(layout.last_rows)]
            bar.advance(len(events))
    return states


@torch.inference_mode()
def user_states_after(model: TwoSided, dataset: Dataset, histories: Histories, vectors: Tensor) -> Tensor:
    """Every user after 0, 1, 2, ... events: float32 [H + U, D], users one after another.

    States are asked for at once, even where the model may be told when: who is compared with others at some
    moment must not know when their own next event comes.

    Args:
        histories: user histories with H events.
        vectors: float32 [I, D], the item vectors that histories are made of.
    """
    states = model.empty_user.detach().repeat(len(histories.event) + histories.num_owners, 1)
    with progress(len(histories.event), "encoding users after each event", unit="events") as bar:
        for owners in row_batches(histories, ROWS):
            events, lengths = histories.packed(owners)
            layout = layout_of(model, dataset, events, lengths, dataset.event_user)
            place = np.repeat(histories.indptr[owners] + owners + 1, lengths) + layout.positions
            inputs = _rows(vectors, dataset.event_item[events])
            encoded = model.user_states(inputs, layout, prefixes=True)
            states[torch.from_numpy(place)] = encoded
            bar.advance(len(events))
    return states


@torch.inference_mode()
def states_before_events(
    model: TwoSided, dataset: Dataset, visible: np.ndarray, wanted: np.ndarray | None = None
) -> Tensor:
    """The user's state just before each visible event, float32 [E, D]; other rows are zero.

    Args:
        wanted: bool [E], visible events that are asked about, the others are zero as well; None: all.
    """
    histories = user_histories(dataset, visible)
    states = torch.zeros(dataset.num_events, model.dim)
    with progress(len(histories.event), "encoding users before each event", unit="events") as bar:
        for owners in row_batches(histories, ROWS):
            events, lengths = histories.packed(owners)
            layout = user_layout(model, dataset, events, lengths)
            inputs = model.item_rows(torch.from_numpy(dataset.event_item[events].astype(np.int64)))
            rows = np.arange(len(events)) if wanted is None else np.flatnonzero(wanted[events])
            states[torch.from_numpy(events[rows])] = model.users_before(inputs, layout, rows)
            bar.advance(len(events))
    return states


@torch.inference_mode()
def generated_items(
    model: TwoSided, dataset: Dataset, visible: np.ndarray, only: np.ndarray | None = None
) -> Made:
    """What the item encoder makes of each item's users.

    Args:
        visible: bool [E], events that may be used.
        only: bool [I], items that are asked for; of the others, zeros may come back, and of groups that none of these
            is in, no weights. Where most prefixes are encoded alone and few items are asked for, minutes are saved.

    Returns:
        float32 [I, D], the empty state for items without users; int64 [I], how many users each has;
        float32 [GROUPS, 3], what makes their scores comparable with trained items' (`duality.generated`).
    """
    histories = item_histories(dataset, visible)
    users, groups, first, wanted = histories.lengths, GROUPS, histories, None
    if only is not None and (highest := group_of(users[only]).max(initial=0)) < GROUPS - 1:
        groups = int(highest) + 1
        first = oldest(histories, 2**groups // 2 - 1)  # as many users as the last of these groups has at most
        wanted = np.zeros(dataset.num_events, dtype=bool)
        wanted[first.event] = wanted[events_read(dataset, visible, histories, groups)] = True
    before = states_before_events(model, dataset, visible, wanted)
    after = torch.zeros(len(histories.event) + 1, model.dim)
    place = np.repeat(histories.indptr[:-1] - first.indptr[:-1], first.lengths) + np.arange(len(first.event))
    after[torch.from_numpy(place)] = packed_item_states(model, dataset, first, before)
    after[-1] = model.empty_item.detach()[: model.dim]  # of no users
    newest = torch.from_numpy(np.where(users > 0, histories.indptr[1:] - 1, -1))
    weights = weigh(
        model, dataset, visible, histories, before, lambda rows: after[torch.from_numpy(rows)], groups
    )
    return after[newest], users, weights


def needed_items(model: TwoSided, dataset: Dataset, visible: np.ndarray) -> Made:
    """`generated_items` as far as `stored_item_vectors` asks."""
    return generated_items(model, dataset, visible, None if needs_all(model) else ~model.trained.numpy())


def needs_all(model: TwoSided) -> bool:
    """Whether items have a share of g that training saw, or one pass makes the states of all users anyway."""
    return bool(model.generated_share) or model.user_encoder.one_pass


@torch.inference_mode()
def packed_item_states(model: TwoSided, dataset: Dataset, histories: Histories, before: Tensor) -> Tensor:
    """g after each event of the item histories, float32 [H, D], in the histories' own order.

    Args:
        before: float32 [E, D] of `states_before_events`.
    """
    windows = overlapping_windows(histories, model.config.item_history)
    states = torch.zeros(len(histories.event), model.dim)
    last = histories.indptr[windows.owner] + windows.ends
    for chosen in row_batches(windows.histories, ROWS):
        events, lengths = windows.histories.packed(chosen)
        layout = layout_of(model, dataset, events, lengths, dataset.event_item)
        inputs = before[torch.from_numpy(events)]
        made = model.item_states(inputs, layout, prefixes=True)[:, : model.dim]
        left = np.repeat(lengths, lengths) - layout.positions  # 1 for the newest row
        fresh = left <= np.repeat(windows.fresh[chosen], lengths)
        place = np.repeat(last[chosen], lengths) - left
        states[torch.from_numpy(place[fresh])] = made[torch.from_numpy(np.flatnonzero(fresh))]
    return states


@torch.inference_mode()
def item_vectors(
    model: TwoSided,
    dataset: Dataset,
    visible: np.ndarray,
    made: Made | None = None,
) -> Tensor:
    """What histories are made of, float32 [I, D]: trained vectors where there are any, generated ones elsewhere.

    Args:
        made: what `generated_items` returned, if that has been done already.
    """
    if bool(model.trained.all()):
        return model.item_table.detach()
    trained, _ = stored_ends(model, made or needed_items(model, dataset, visible))
    return torch.from_numpy(trained[:, : model.dim])


def stored_item_vectors(
    model: TwoSided, dataset: Dataset, visible: np.ndarray, made: Made | None = None
) -> np.ndarray:
    """Items as the index stores them, float32 [I, D + 3]: trained ones with their share of g, others g.

    Args:
        made: what `generated_items` returned, if that has been done already.
    """
    share = np.float32(model.generated_share)
    if not share and bool(model.trained.all()):
        return stored_items(model.item_table)
    trained, generated = stored_ends(model, made or needed_items(model, dataset, visible))
    return (1 - share) * trained + share * generated


def item_tables(model: TwoSided, dataset: Dataset, visible: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """`item_vectors` and `stored_item_vectors`; what both are made of is made once."""
    plain = bool(model.trained.all()) and not float(model.generated_share)
    made = None if plain else needed_items(model, dataset, visible)
    return item_vectors(model, dataset, visible, made), stored_item_vectors(model, dataset, visible, made)


def stored_ends(model: TwoSided, made: Made) -> tuple[np.ndarray, np.ndarray]:
    """The two vectors that each item's is a mixture of, float32 [I, D + 3] twice: trained, generated.

    They are the same where there is only one: items that training never saw, items without users.
    """
    new, users, weights = made
    trained, generated = stored_items(model.item_table), stored_generated(new, weights[group_of(users)])
    unseen, alone = ~model.trained.numpy(), users == 0
    trained[unseen] = generated[unseen]
    generated[alone] = trained[alone]
    return trained, generated


@torch.inference_mode()
def encode_history(model: TwoSided, vectors: np.ndarray) -> np.ndarray:
    """A user nobody trained on: item vectors float32 [L, D], oldest first, to stored form [D + 3]."""
    states = model.empty_user[None]
    if len(vectors):
        states = model.user_states(torch.from_numpy(vectors), Layout(np.array([len(vectors)])))[-1:]
    return stored_users(model, states)[0]


@torch.inference_mode()
def encode_audience(model: TwoSided, states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """An item nobody trained on: user states float32 [L, D], oldest first, to stored form [D + 3].

    Args:
        weights: float32 [GROUPS, 3], as `embed` returned them.
    """
    made, newest = model.empty_item[None], states[-model.config.item_history :]
    if len(newest):
        made = model.item_states(torch.from_numpy(newest), Layout(np.array([len(newest)])))[-1:]
    return stored_generated(made[:, : model.dim], weights[group_of(np.array([len(states)]))])[0]


@torch.inference_mode()
def stored_users(model: TwoSided, states: Tensor) -> np.ndarray:
    """States float [N, D] as the index stores them: float32 [N, D + 3], [u, -log Z(u), 0, 1]."""
    ends = torch.tensor((0.0, 1.0)).expand(len(states), -1)
    return torch.cat((states, -model.log_partition(states)[:, None], ends), dim=1).float().numpy()


def stored_items(vectors: Tensor) -> np.ndarray:
    """Trained vectors float [N, D] as the index stores them: float32 [N, D + 3], [e, 1, 1, 0]."""
    ends = torch.tensor((1.0, 1.0, 0.0)).expand(len(vectors), -1)
    return torch.cat((vectors, ends), dim=1).float().detach().numpy()


def stored_generated(made: Tensor, weights: np.ndarray) -> np.ndarray:
    """Generated vectors float [N, D] as the index stores them: float32 [N, D + 3], [slope g, partition, 1, level].

    Args:
        weights: float32 [N, 3], of `duality.generated.weigh` for as many users as each is made of.
    """
    slope, partition, level = weights.T[:, :, None]
    vectors = made.float().detach().numpy() * slope
    return np.concatenate((vectors, partition, np.ones_like(partition), level), axis=1)


def embed(model: TwoSided, dataset: Dataset) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Both sides of a dataset, all events visible.

    Returns:
        Users and items: columns `id` (string), `vector` (FixedSizeList<float32>[D + 3]), then the
        attributes of the dataset; items also `generated` (true: made from users, not trained).
        Then what generated scores are weighed by, float32 [GROUPS, 3] (`duality.generated`).
    """
    visible = np.ones(dataset.num_events, dtype=bool)
    made = generated_items(model, dataset, visible)
    inputs = item_vectors(model, dataset, visible, made)
    now = last_moment(dataset)
    states = user_states(model, dataset, user_histories(dataset, visible), inputs, now)
    vectors = stored_users(model, states), stored_item_vectors(model, dataset, visible, made)
    vectors[0][:, ACTIVITY] += bias_now(model.activity, dataset, dataset.event_user, dataset.num_users)
    vectors[1][:, LEVEL] += bias_now(model.popularity, dataset, dataset.event_item, dataset.num_items)
    users, items = _table(dataset.users(), vectors[0]), _table(dataset.items(), vectors[1])
    return users, items.append_column("generated", pa.array(~model.trained.numpy())), made[2]


def fading_counts(
    bias: Tensor, dataset: Dataset, owner: np.ndarray, num_owners: int, visible: np.ndarray | None = None
) -> tuple[np.float32, FadingCounts] | None:
    """Weight and counts of a bias (`TwoSided.popularity`, `.activity`); None where it adds nothing.

    Args:
        bias: float64 [2], weight and fading time in seconds.
        owner: int [E], the user or the item of every event.
        visible: bool [E], events that count; None for all.
    """
    weight, seconds = bias.tolist()
    if not weight or dataset.event_time is None:
        return None
    chosen = slice(None) if visible is None else np.flatnonzero(visible)
    time = np.asarray(dataset.event_time)[chosen]
    return np.float32(weight), FadingCounts(np.asarray(owner)[chosen], time, num_owners, seconds)


def bias_now(bias: Tensor, dataset: Dataset, owner: np.ndarray, num_owners: int) -> np.ndarray:
    """What fading counts add to every row just after the last event of the log, float32 [num_owners]."""
    found = fading_counts(bias, dataset, owner, num_owners)
    if found is None:
        return np.zeros(num_owners, np.float32)
    weight, counts = found
    return weight * counts.now(last_moment(dataset))


def last_moment(dataset: Dataset) -> int:
    """Microseconds UTC of the newest event; 0 where the log has no time."""
    return 0 if dataset.event_time is None else int(np.asarray(dataset.event_time).max())


def write_embeddings(table: pa.Table, path: Path, model: str) -> None:
    """Write `id` and `vector` of one side as Parquet, atomically, with the fingerprint of their model."""
    chosen = table.select(["id", "vector"]).replace_schema_metadata({"duality.model": model})
    with atomic_file(path) as temporary:
        pq.write_table(chosen, temporary, compression="zstd")


def _table(attributes: pa.Table, vectors: np.ndarray) -> pa.Table:
    values = pa.array(vectors.reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return attributes.add_column(1, "vector", column)


def _rows(vectors: Tensor, rows: np.ndarray) -> Tensor:
    return vectors[torch.from_numpy(rows.astype(np.int64))]
