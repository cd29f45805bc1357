"""Attributes that a model knows: which values there are, and the codes of a dataset's users and items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.coding import TEXT, VECTOR, Coded, Vocabulary
from duality.data.dataset import Dataset
from duality.data.split import Split
from duality.errors import InputError
from duality.model.folder import ModelFolder
from duality.model.texts import TextModel
from duality.model.two_sided import ModelConfig, TwoSided


@dataclass(frozen=True, eq=False)
class Attributes:
    """What is known of users, items and events, and the codes of all users and items."""

    vocabulary: dict[str, Vocabulary]
    codes: dict[str, Coded]

    @classmethod
    def fit(cls, dataset: Dataset, split: Split, config: ModelConfig) -> Attributes:
        """Of the columns that a configuration names, as the training events' users and items have them.

        Raises:
            InputError: no such column, or nothing in it to learn from.
        """
        named = {"users": config.user_attributes, "items": config.item_attributes}
        trained = {
            "users": np.bincount(dataset.event_user[split.train], minlength=dataset.num_users) > 0,
            "items": np.bincount(dataset.event_item[split.train], minlength=dataset.num_items) > 0,
        }
        named["events"], trained["events"] = config.event_attributes, split.train
        tables = {side: _table(dataset, side) for side, names in named.items() if names}
        _check_events(config.event_attributes)
        read = TextModel(Path(config.text_model)) if config.text_model else None
        of = "" if read is None else read.fingerprint
        vocabulary = {
            side: Vocabulary.fit(table, named[side], trained[side], side=side, text_model=of)
            for side, table in tables.items()
        }
        sides = [side for side in vocabulary if side != "events"]
        return cls(vocabulary, {side: vocabulary[side].codes(tables[side], embed=read) for side in sides})

    def to_json(self) -> dict[str, Any]:
        """Vocabularies by side."""
        return {side: known.to_json() for side, known in self.vocabulary.items()}


def codes_for(folder: ModelFolder, dataset: Dataset, model: TwoSided) -> dict[str, Coded | None]:
    """Codes of a dataset's users and items by the vocabulary of a model; None for a side without.

    Args:
        model: of the folder; texts that it knows are not read again.
    """
    sides = {"users": model.user_attributes, "items": model.item_attributes}
    found = {}
    for side in set(folder.config.get("vocabulary", {})) & set(sides):
        held = sides[side]
        known = None if held is None or held.described is None else held.described.known()
        found[side] = folder.codes(side, _table(dataset, side), known)
    return found


def _check_events(names: tuple[str, ...]) -> None:
    for name in names:
        if name.endswith((f":{TEXT}", f":{VECTOR}")):
            raise InputError(
                f"model.event_attributes: '{name}': events have values only, no texts or vectors"
            )


def _table(dataset: Dataset, side: str) -> Any:
    if side == "events":
        table = dataset.event_attributes()
        if table is None:
            raise InputError(
                f"{dataset.path}: the log has no columns beside user, item and time: events have no attributes"
            )
        return table
    return dataset.users() if side == "users" else dataset.items()
