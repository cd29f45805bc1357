"""`duality.Index`: both indexes, the histories behind them, and the encoder when a raw history asks.

A query by id reads stored vectors only and imports no torch; a raw history or audience loads the
model that built the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from duality.data.dataset import Dataset
from duality.data.versions import Home
from duality.errors import InputError
from duality.index.pair import Pair
from duality.index.side import Side
from duality.index.stores import open_index
from duality.retrieval.seen import seen_items, seen_users
from duality.workflows.answers import Sample, answer, drawn

if TYPE_CHECKING:
    from duality.calibration import Map
    from duality.model.folder import ModelFolder


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
        self._forget()
        return True

    def _forget(self) -> None:
        """Look at what the manifest names again when it is next asked for."""
        for name in ("dataset", "model", "model_folder", "calibration"):
            self.__dict__.pop(name, None)

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
        home, at = Home.open(self.path / recorded["path"]), recorded["fingerprint"]
        dataset = Dataset.open(home.path, at=at)
        # A later version holds every event of this one: when this one is no longer kept, it will do.
        if dataset.fingerprint != at and not home.knows(at):
            raise InputError(
                f"{dataset.path} has changed since the index was built: build the index again, "
                "name the right dataset with --data, or use --include-seen"
            )
        return dataset

    def update(
        self,
        events: Any,
        *,
        data: str | Path | None = None,
        user_column: str | None = None,
        item_column: str | None = None,
        time_column: str | None = None,
        order_column: str | None = None,
        event_column: str | None = None,
        users: Any = None,
        items: Any = None,
        where: str | None = None,
    ) -> dict[str, Any]:
        """Append events to the dataset, and encode and store the users and items they touch.

        Args:
            events: a path, a pandas or Polars frame, or an Arrow table, as `duality.import_events` takes.
            data: dataset folder; None takes the one given to `open`, else the recorded one.
            user_column, item_column, time_column, order_column, event_column: columns, by default those
                of the import or those with a usual name.
            users, items: attributes of those who are new, a path or frame each; by default tables beside the events.
            where: keep only rows that meet this filter; None takes that of the import, "" none.

        Returns and raises as `duality.workflows.update.update`.
        """
        from duality.workflows.update import update

        reading = {
            "user_column": user_column,
            "item_column": item_column,
            "time_column": time_column,
            "order_column": order_column,
            "event_column": event_column,
            "users": users,
            "items": items,
            "where": where,
        }
        document = update(self, events, data=Path(data) if data else self._data, **reading)
        self._forget()
        return document

    def recommend_items(
        self,
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        include_seen: bool = False,
        at: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> tuple[list[str], np.ndarray]:
        """Items for a user known by id, or by a raw history of item ids, oldest first.

        Args:
            at: microseconds since 1970: asks at another moment than the index was built for, by id only, if the
                model was trained with `model.request_time`.

        Returns:
            At most k ids, best first, and their scores float32: log p(item | user).

        Raises:
            UnknownIdError: the user, or an item of the history, is not in the index.
            InputError: not exactly one of `user` and `history`.
        """
        if temperature is not None:
            sample = self.sample_items(
                user,
                history=history,
                k=k,
                where=where,
                include_seen=include_seen,
                at=at,
                temperature=temperature,
                seed=seed,
            )
            return sample.ids, sample.scores
        return answer(self.items, *self._asks_items(user, history, include_seen, at), k, where)

    def sample_items(
        self,
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        include_seen: bool = False,
        at: int | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        exact: bool = False,
    ) -> Sample:
        """Items drawn from softmax(score / temperature), with the probabilities of having been drawn.

        Args:
            exact: draw among all items; otherwise among the best max(500, 20 k).

        Raises:
            As `recommend_items`; InputError also for a temperature that is not above 0.
        """
        vector, seen = self._asks_items(user, history, include_seen, at)
        return drawn(self.items, vector, seen, user, k, where, temperature, seed, exact)

    def _asks_items(
        self, user: str | None, history: Sequence[str] | None, include_seen: bool, at: int | None
    ) -> tuple[np.ndarray, list[str]]:
        """Query vector [1, D + 3] and the items to leave out."""
        _exactly_one(user=user, history=history)
        if user is not None:
            return self._user(user, at), [] if include_seen else self._seen(user, seen_items)
        known = [] if history is None else list(history)
        return self._encode_history(known), [] if include_seen else known

    def _user(self, user: str, at: int | None) -> np.ndarray:
        """Stored form [1, D + 3] of a user, as of a moment if one is given."""
        if at is None:
            return self.users.vectors([user])
        from duality.workflows.asked import user_at

        return user_at(self, user, at)

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
        if temperature is not None:
            sample = self.sample_users(
                item,
                audience=audience,
                k=k,
                where=where,
                include_seen=include_seen,
                temperature=temperature,
                seed=seed,
            )
            return sample.ids, sample.scores
        return answer(self.users, *self._asks_users(item, audience, include_seen), k, where)

    def sample_users(
        self,
        item: str | None = None,
        *,
        audience: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        include_seen: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
        exact: bool = False,
    ) -> Sample:
        """Users drawn from softmax(score / temperature); as `sample_items`."""
        vector, seen = self._asks_users(item, audience, include_seen)
        return drawn(self.users, vector, seen, item, k, where, temperature, seed, exact)

    def _asks_users(
        self, item: str | None, audience: Sequence[str] | None, include_seen: bool
    ) -> tuple[np.ndarray, list[str]]:
        """Query vector [1, D + 3] and the users to leave out."""
        _exactly_one(item=item, audience=audience)
        if item is not None:
            return self.items.vectors([item]), [] if include_seen else self._seen(item, seen_users)
        known = [] if audience is None else list(audience)
        return self._encode_audience(known), [] if include_seen else known

    @cached_property
    def calibration(self) -> Map:
        """The map from scores to probabilities that `duality calibrate` stored with the model.

        Raises:
            InputError: the index has no model, or the model has no such map.
            DamageError: the stored map is damaged.
        """
        from duality.workflows.calibration_file import read_calibration

        recorded = self.pair.manifest.get("model")
        if not recorded:
            raise InputError(
                f"{self.path} was built from vectors, without a model: its scores cannot become probabilities"
            )
        return read_calibration(self.path / recorded["path"], recorded["fingerprint"])

    def known_events(self, users: Sequence[str]) -> np.ndarray:
        """Events of each user in the histories behind the index, int64 [len(users)]; 0 for others.

        Raises:
            InputError: the index has no histories.
        """
        if self.dataset is None:
            raise InputError(
                f"{self.path} has no histories, and its probabilities depend on how long they are: give --data"
            )
        rows = np.asarray(self.dataset.user_ids.find(list(users)), np.int64)
        counts = np.diff(np.asarray(self.dataset.user_indptr))
        return np.where(rows >= 0, counts[rows], 0)

    def _seen(self, identifier: str, look_up: Any) -> list[str]:
        return [] if self.dataset is None else look_up(self.dataset, identifier)

    def _encode_history(self, items: list[str]) -> np.ndarray:
        """Stored form [1, D + 3] of a user with this history, by the model that built the index."""
        from duality.embeddings import encode_history

        vectors = _of_model(self.items, items, self.model.dim)
        # Histories are made of trained vectors as training had them; what is stored may be a mixture.
        rows = np.asarray(self.model_folder.item_ids.find(items), np.int64)
        trained = (rows >= 0) & self.model.trained.numpy()[rows]
        vectors[trained] = self.model.item_table.detach().numpy()[rows[trained]]
        return encode_history(self.model, vectors)[None]

    def _encode_audience(self, users: list[str]) -> np.ndarray:
        """Stored form [1, D + 3] of an item with these users."""
        from duality.embeddings import encode_audience
        from duality.generated import recorded_weights

        weights = recorded_weights(self.pair.manifest["extra"], self.path)
        return encode_audience(self.model, _of_model(self.users, users, self.model.dim), weights)[None]

    @cached_property
    def model(self) -> Any:
        """The model that built the index.

        Raises:
            InputError: there was none, or the folder holds another one now.
            DamageError: its weights are damaged.
        """
        return self.model_folder.load()

    @cached_property
    def model_folder(self) -> ModelFolder:
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
        return folder


def _of_model(side: Side, ids: list[str], dim: int) -> np.ndarray:
    """The model's own part of stored vectors, float32 [L, dim]."""
    if not ids:
        return np.zeros((0, dim), np.float32)
    return np.ascontiguousarray(side.vectors(ids)[:, :dim])


def _exactly_one(**given: object) -> None:
    if sum(value is not None for value in given.values()) != 1:
        raise InputError(f"give exactly one of {' and '.join(given)}")
