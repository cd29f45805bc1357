"""The days again, event by event, asked of every index before they are told of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.dataset import Dataset
from duality.embeddings import stored_users
from duality.evaluation.pools import Pool, pools_for
from duality.evaluation.queries import DIRECTIONS, USER_TO_ITEM, Queries, World, make_queries, seen_csr
from duality.evaluation.ranking import rank_pools
from duality.index.stores import open_index
from duality.metrics import per_query
from duality.runtime import say
from duality.workflows.build import build_index
from duality.workflows.index import Index
from study.measuring import METRICS
from study.stream_training import DAY, events_of, mornings

HOURS = {"daily updates": 24, "hourly updates": 1}
HOUR = DAY // 24


class Served:
    """Scores with the vectors that an index holds now; -inf for whoever it does not hold.

    Args:
        name: in results.
        dataset: whose rows are asked about.
        path: the index.
    """

    def __init__(self, name: str, dataset: Dataset, path: Path) -> None:
        self.name, self.dataset, self.path = name, dataset, path
        with Index.open(path) as index:
            # Whoever is new to the index asks as somebody without a history.
            model = index.model
            self.nobody = stored_users(model, model.empty_user.detach()[None])[0]
        self.look()

    def look(self) -> None:
        """Read all vectors of the index."""
        with open_index(self.path) as pair:
            self.users, self.has_user = self._all(pair.users, self.dataset.user_ids)
            self.items, self.has_item = self._all(pair.items, self.dataset.item_ids)
        self.users[~self.has_user] = self.nobody

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        """float32 [B, I] or [B, U]."""
        if direction == USER_TO_ITEM:
            scores = self.users[queries.user[rows]] @ self.items.T
            scores[:, ~self.has_item] = -np.inf
        else:
            scores = self.items[queries.item[rows]] @ self.users.T
            scores[:, ~self.has_user] = -np.inf
            scores[~self.has_item[queries.item[rows]]] = -np.inf
        return scores

    @staticmethod
    def _all(side: Any, ids: Any) -> tuple[np.ndarray, np.ndarray]:
        names, vectors = side.matching()
        rows = ids.find(names)
        found = np.zeros((len(ids), side.dim), np.float32)
        found[rows] = vectors
        held = np.zeros(len(ids), bool)
        held[rows] = True
        return found, held


def replay_all(data: Path, folder: Path, days: int, seeds: Sequence[int]) -> None:
    """Replay what is missing under F/values."""
    dataset = Dataset.open(data)
    for seed in seeds:
        out = folder / "values" / f"{seed}.npz"
        if not out.exists():
            say(f"replaying, seed {seed}")
            _replay(dataset, folder, days, seed, out)


def _replay(dataset: Dataset, folder: Path, days: int, seed: int, out: Path) -> None:
    indexes = folder / "indexes" / str(seed)
    shutil.rmtree(indexes, ignore_errors=True)
    seconds: dict[str, float] = {}
    frozen = _built(folder, 0, seed, indexes / "frozen", "build once", seconds)
    updated = {name: _copy_of(folder, seed, indexes / name.split()[0]) for name in HOURS}
    scorers = [Served(name, dataset, path) for name, path in [("frozen", frozen), *updated.items()]]
    values: dict[str, list[np.ndarray]] = {}
    starts = mornings(dataset, days)
    for day, morning in enumerate(starts):
        path = _built(folder, day, seed, indexes / "retrained", "build daily", seconds)
        seconds["train daily"] = seconds.get("train daily", 0.0) + _trained(folder, day, seed)
        everyone = [*scorers, Served("daily retraining", dataset, path)]
        for first, last in _hours(morning):
            _ask(dataset, morning, first, last, everyone, values)
            for scorer in scorers[1:]:
                _tell(dataset, scorer, morning, last, seconds)
        say(f"day {day + 1} of {days}")
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, **{name: np.concatenate(parts) for name, parts in values.items()})
    costs = {name: round(value, 1) for name, value in seconds.items()}
    out.with_suffix(".json").write_text(json.dumps(costs, indent=1), encoding="utf-8")


def _hours(morning: int) -> Iterator[tuple[int, int]]:
    for start in range(morning, morning + DAY, HOUR):
        yield start, start + HOUR


def _built(folder: Path, day: int, seed: int, out: Path, name: str, seconds: dict[str, float]) -> Path:
    """The index of a day's model; what building took goes to `seconds`."""
    started = time.perf_counter()
    build_index(folder / "models" / f"{day}-{seed}", out, "exact", folder / "data" / str(day))
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
    return out


def _trained(folder: Path, day: int, seed: int) -> float:
    metrics = (folder / "models" / f"{day}-{seed}" / "metrics.json").read_text(encoding="utf-8")
    return float(json.loads(metrics)["seconds"])


def _copy_of(folder: Path, seed: int, out: Path) -> Path:
    """An index of the first day's model over a dataset of its own, which updates append to."""
    shutil.copytree(folder / "data" / "0", out / "data")
    build_index(folder / "models" / f"0-{seed}", out / "index", "exact", out / "data")
    return out / "index"


def _tell(dataset: Dataset, scorer: Served, morning: int, now: int, seconds: dict[str, float]) -> None:
    """Give an index the events since its last update, when its time has come."""
    hours = HOURS[scorer.name]
    if (now - morning) % (hours * HOUR):
        return
    events = events_of(dataset, now - hours * HOUR, now)
    if not len(events):
        return
    started = time.perf_counter()
    with Index.open(scorer.path, mode="w") as index:
        index.update(events)
    seconds[scorer.name] = seconds.get(scorer.name, 0.0) + time.perf_counter() - started
    scorer.look()


def _ask(
    dataset: Dataset,
    morning: int,
    first: int,
    last: int,
    scorers: Sequence[Served],
    values: dict[str, list[np.ndarray]],
) -> None:
    """Rank the events of an hour both ways, of users and items that were there in the morning."""
    event_time = np.asarray(dataset.event_time)
    before = event_time < morning
    world = World(
        dataset.num_users, dataset.num_items, before, before,
        dataset.event_user, dataset.event_item, event_time,
    )  # fmt: skip
    known_user = np.bincount(dataset.event_user[before], minlength=dataset.num_users) > 0
    known_item = np.bincount(dataset.event_item[before], minlength=dataset.num_items) > 0
    hidden = np.flatnonzero((event_time >= first) & (event_time < last))
    hidden = hidden[known_user[dataset.event_user[hidden]] & known_item[dataset.event_item[hidden]]]
    for direction in DIRECTIONS:
        queries = make_queries(world, hidden, direction)
        if len(queries):
            _rank(world, queries, direction, scorers, known_item, values)


def _rank(
    world: World,
    queries: Queries,
    direction: str,
    scorers: Sequence[Served],
    known_item: np.ndarray,
    values: dict[str, list[np.ndarray]],
) -> None:
    pools = pools_for(queries, world, direction)
    if direction == USER_TO_ITEM:
        pools = [Pool("all", "items with an event before the day", lambda rows: known_item[None])]
    ranks, competing = rank_pools(scorers, queries, world, direction, pools, seen=seen_csr(world, direction))
    held = scorers[0].has_user[queries.user] & scorers[0].has_item[queries.item]
    for key, value in (("cluster", queries.sources(direction)), ("old", held)):
        values.setdefault(f"{direction}/{key}", []).append(value)
    for place, pool in enumerate(pools):
        for number, scorer in enumerate(scorers):
            table = [per_query(name, ranks[number, place], competing[place]) for name in METRICS]
            values.setdefault(f"{direction}/{pool.name}/{scorer.name}", []).append(
                np.stack(table, axis=1).astype(np.float32)
            )
