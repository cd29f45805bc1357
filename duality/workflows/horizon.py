"""`duality horizon`: the next h items of every user, generated in several ways, against top-h."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duality.data.dataset import Dataset
from duality.data.histories import user_histories
from duality.data.split import Split
from duality.data.splits import split_named
from duality.embeddings import item_tables
from duality.errors import InputError
from duality.evaluation.horizon import Futures, compare, futures, last_new_items
from duality.model.decoding import METHODS, Decoding, continuations
from duality.model.folder import ModelFolder
from duality.model.two_sided import TwoSided
from duality.runtime import num_threads
from duality.workflows.build import model_for
from duality.workflows.train import dataset_of

TEMPORAL = {
    "hidden": "all events from the {split} cut on, of everybody",
    "weights": "trained on events before the first cut only: none of the predicted steps",
}
LAST_ITEMS = {
    "hidden": "each user's last {longest} new items and what lies between them",
    "weights": "trained with leave-one-out: the weights saw every step but the last two, and later events "
    "of others; train with --set split.name=temporal for steps that nothing saw",
}


def horizon(
    model: Path, *, data: Path | None = None, split: str = "test", options: Decoding | None = None
) -> dict[str, Any]:
    """Predict several steps ahead and compare the ways to do it.

    Args:
        model: model folder. One trained with the temporal split is asked at its cut; with any
            other, the last items of each user are hidden and the output says what training saw.
        data: dataset folder; None takes the one the model recorded.
        split: "test" or "validation": which cut of a temporal split.
        options: horizons, widths, temperature, seed.

    Returns:
        `protocol` (what was hidden, what the weights saw, who was dropped), `options`, and
        `horizons`; see `duality.evaluation.horizon.compare`.

    Raises:
        InputError: other items than the model's, or nobody has that many new items.
    """
    torch.set_num_threads(num_threads())
    options = options or Decoding()
    folder = ModelFolder.open(model)
    dataset = dataset_of(folder, data)
    network = model_for(folder, dataset)
    name = folder.config["split"]["name"]
    visible, words = _visible(dataset, name, split, options.last)
    found = futures(
        np.asarray(dataset.event_user),
        np.asarray(dataset.event_item),
        visible,
        (dataset.num_users, dataset.num_items),
        options.last,
    )
    lists = _continued(network, dataset, visible, found, options)
    return {
        "protocol": _described(name, words, found),
        "options": {"beam": options.beam, "samples": options.samples, "temperature": options.temperature}
        | {"steps": list(options.steps), "seed": options.seed},
        "horizons": compare(lists, found, options.steps, seed=options.seed),
    }


def _visible(dataset: Dataset, name: str, part: str, longest: int) -> tuple[np.ndarray, dict[str, str]]:
    """What may be known, bool [E], and the words that describe it."""
    if name == "temporal":
        words = {key: text.format(split=part) for key, text in TEMPORAL.items()}
        return before_cut(dataset, split_named(dataset, name), part), words
    users, items = np.asarray(dataset.event_user), np.asarray(dataset.event_item)
    visible = last_new_items(users, items, (dataset.num_users, dataset.num_items), longest)
    return visible, {key: text.format(longest=longest) for key, text in LAST_ITEMS.items()}


def before_cut(dataset: Dataset, division: Split, part: str) -> np.ndarray:
    """Events strictly before the first hidden one of a temporal split's part: bool [E].

    Raises:
        InputError: the part hides nothing.
    """
    hidden = division.hidden(part)
    if dataset.event_time is None or not len(hidden):
        raise InputError(f"the {part} part of the temporal split is empty: there is nothing to predict")
    time = np.asarray(dataset.event_time)
    return time < time[hidden].min()


def _continued(
    model: TwoSided, dataset: Dataset, visible: np.ndarray, found: Futures, options: Decoding
) -> dict[str, dict[int, np.ndarray]]:
    """Lists of every method and horizon; -1 for users whose true future is shorter than it."""
    if not len(found.user):
        raise InputError("nobody has events on both sides of the cut: there is nothing to predict")
    vectors, stored = item_tables(model, dataset, visible)
    histories, items = user_histories(dataset, visible), np.asarray(dataset.event_item)
    lists = {m: {h: np.full((len(found.user), h), -1) for h in options.steps} for m in METHODS}
    # Nobody is continued further than is compared: most users of a sparse log have one step.
    reach = np.searchsorted(sorted(options.steps), (found.items >= 0).sum(1), side="right")
    for number in range(1, len(options.steps) + 1):
        asked = np.flatnonzero(reach == number)
        events, lengths = histories.packed(found.user[asked])
        some = replace(options, steps=tuple(sorted(options.steps)[:number]))
        made = continuations(model, vectors, torch.from_numpy(stored), (items[events], lengths), some)
        for method, by_step in made.items():
            for h, part in by_step.items():
                lists[method][h][asked] = part
    return lists


def _described(name: str, words: dict[str, str], found: Futures) -> dict[str, Any]:
    return {
        "name": name,
        **words,
        "targets": "each user's next new items, in order; repeats are skipped",
        "candidates": "all items neither seen nor already generated",
        "compared_with": "top: the h best items of the present state",
        "intervals": "95% percentile bootstrap over users, 1000 resamples; comparisons are paired",
        "users": len(found.user),
        "dropped": dict(found.dropped),
    }
