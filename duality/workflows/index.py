"""`duality.Index`: both indexes, the histories behind them, and the encoder when a raw history asks.

A query by id reads stored vectors only and imports no torch; a raw history or audience loads the
model that built the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from duality.data.dataset import Dataset
from duality.errors import InputError
from duality.index.pair import Pair
from duality.index.side import Side
from duality.index.stores import open_index
from duality.retrieval.retrieve import retrieve
from duality.retrieval.seen import seen_items, seen_users


class Index:
    """Items for a user, users for an item; `users` and `items` are the stores of either side."""

    def __init__(self, pair: Pair, path: Path, data: Path | None = None) -> None:
        self.pair, self.path, self._data = pair, path, data

    @classmethod
    def open(cls, path: str | Path, mode: str = "r", data: str | Path | None = None) -> Index:
        """Open an index folder.

        Args:
            path: the folder.
            mode: "r" reads; "w" takes the writer's lock.
            data: dataset folder to take histories from; None takes the recorded one.

        Raises:
            InputError: no index there, or `mode` is neither.
            DualityError: another process holds the writer's lock.
        """
        return cls(open_index(Path(path), mode), Path(path), Path(data) if data else None)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release files and locks."""
        self.pair.close()

    def refresh(self) -> bool:
        """Move on to a generation that another process has switched to; whether there was one."""
        if not self.pair.refresh():
            return False
        for name in ("dataset", "_model"):
            self.__dict__.pop(name, None)
        return True

    @property
    def users(self) -> Side:
        return self.pair.users

    @property
    def items(self) -> Side:
        return self.pair.items

    @cached_property
    def dataset(self) -> Dataset | None:
        """The histories behind the index; None when it was built from vectors alone.

        Raises:
            InputError: the recorded dataset is gone or has changed.
        """
        recorded = self.pair.manifest.get("dataset")
        if self._data is not None:
            return Dataset.open(self._data)
        if not recorded:
            return None
        dataset = Dataset.open(self.path / recorded["path"])
        if dataset.fingerprint != recorded["fingerprint"]:
            raise InputError(
                f"{dataset.path} has changed since the index was built: build the index again, "
                "name the right dataset with --data, or use --include-seen"
            )
        return dataset

    def recommend_items(
        self,
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        include_seen: bool = False,
        temperature: float | None = None,
        seed: int = 0,
    ) -> tuple[list[str], np.ndarray]:
        """Items for a user known by id, or by a raw history of item ids, oldest first.

        Returns:
            At most k ids, best first, and their scores float32: log p(item | user).

        Raises:
            UnknownIdError: the user, or an item of the history, is not in the index.
            InputError: not exactly one of `user` and `history`.
        """
        _exactly_one(user=user, history=history)
        if user is not None:
            vector = self.users.vectors([user])
            seen = [] if include_seen else self._seen(user, seen_items)
        else:
            known = [] if history is None else list(history)
            vector = self._encode_history(known)
            seen = [] if include_seen else known
        return _answer(self.items, vector, k, where, seen, temperature, seed)

    def recommend_users(
        self,
        item: str | None = None,
        *,
        audience: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        include_seen: bool = False,
        temperature: float | None = None,
        seed: int = 0,
    ) -> tuple[list[str], np.ndarray]:
        """Users for an item known by id, or by the users it has so far, oldest first.

        Returns and raises as `recommend_items`.
        """
        _exactly_one(item=item, audience=audience)
        if item is not None:
            vector = self.items.vectors([item])
            seen = [] if include_seen else self._seen(item, seen_users)
        else:
            known = [] if audience is None else list(audience)
            vector = self._encode_audience(known)
            seen = [] if include_seen else known
        return _answer(self.users, vector, k, where, seen, temperature, seed)

    def _seen(self, identifier: str, look_up: Any) -> list[str]:
        return [] if self.dataset is None else look_up(self.dataset, identifier)

    def _encode_history(self, items: list[str]) -> np.ndarray:
        """Stored form [1, D + 2] of a user with this history, by the model that built the index."""
        from duality.embeddings import encode_history

        return encode_history(self._model, _of_model(self.items, items, self._model.dim))[None]

    def _encode_audience(self, users: list[str]) -> np.ndarray:
        """Stored form [1, D + 2] of an item with these users."""
        from duality.embeddings import encode_audience

        levels = np.array(self.pair.manifest["extra"]["levels"], np.float32)
        return encode_audience(self._model, _of_model(self.users, users, self._model.dim), levels)[None]

    @cached_property
    def _model(self) -> Any:
        from duality.model.folder import ModelFolder

        recorded = self.pair.manifest.get("model")
        if not recorded:
            raise InputError(
                f"{self.path} was built from vectors, without a model: a raw history needs an encoder; query by id"
            )
        folder = ModelFolder.open(self.path / recorded["path"])
        if folder.fingerprint != recorded["fingerprint"]:
            raise InputError(
                f"the index was built by model {recorded['fingerprint']}, and {folder.path} is now "
                f"{folder.fingerprint}: build the index again"
            )
        return folder.load()


def _of_model(side: Side, ids: list[str], dim: int) -> np.ndarray:
    """The model's own part of stored vectors, float32 [L, dim]."""
    if not ids:
        return np.zeros((0, dim), np.float32)
    return np.ascontiguousarray(side.vectors(ids)[:, :dim])


def _exactly_one(**given: object) -> None:
    if sum(value is not None for value in given.values()) != 1:
        raise InputError(f"give exactly one of {' and '.join(given)}")


def _answer(
    side: Side,
    vector: np.ndarray,
    k: int,
    where: str | None,
    seen: list[str],
    temperature: float | None,
    seed: int,
) -> tuple[list[str], np.ndarray]:
    ids, scores = retrieve(
        side, vector, k, where=where, exclude=[seen] if seen else None, temperature=temperature, seed=seed
    )
    found = [place for place, identifier in enumerate(ids[0]) if identifier is not None]
    return [ids[0][place] for place in found], scores[0][found]
