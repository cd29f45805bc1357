"""Per-query values of every model and control, on validation and on test.

One archive per part, direction and seed: F/values/PART.DIRECTION.SEED.npz with `clusters` and, for every
pool and scorer, float32 [Q, M] under "POOL/SCORER"; metric names in METRICS.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from duality.data.dataset import Dataset
from duality.data.split import Split
from duality.data.splits import split_named
from duality.evaluation.baselines import LastActive, MostPopular, RecentPopularity, choose_window
from duality.evaluation.ease import EASE
from duality.evaluation.factors import Factorised
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.pools import pools_for
from duality.evaluation.queries import DIRECTIONS, ITEM_TO_USER, Queries, World, make_queries
from duality.evaluation.ranking import Scorer, rank_pools
from duality.metrics import per_query
from duality.model.folder import ModelFolder
from duality.model.two_sided import TwoSided
from duality.runtime import num_threads, say
from duality.workflows.controls import (
    LogOdds,
    MeanOfUsers,
    Recency,
    Recent,
    Shared,
    ShuffledItems,
    Transposed,
    WeighedMean,
    choose_recency,
)
from duality.workflows.mirror import Mirror
from duality.workflows.scorers import CentredMean, ItemEncoderScorer, ModelScorer, States
from duality.workflows.train import world_of
from study.training import ABLATIONS, SETTINGS

METRICS = ("ndcg@10", "recall@10", "recall@100", "auc")
PARTS = ("validation", "test")
MODELS = tuple(SETTINGS)
AS_TRAINED, ENCODER = "as trained", "item encoder"
MOST_ITEMS = 8_000  # EASE inverts an array of items by items


class Named:
    """A scorer under another name: two models' scorers share theirs."""

    def __init__(self, name: str, inner: Scorer) -> None:
        self.name, self.inner = name, inner

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        return self.inner.score(queries, rows, direction)


class Preference:
    """A model's scores without popularity and activity."""

    name = "preference"

    def __init__(self, scorer: ModelScorer) -> None:
        self.scorer = scorer

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        return self.scorer.preference(queries, rows, direction)


def measure_all(data: Path, folder: Path, seeds: Sequence[int], most: int) -> None:
    """Measure what is missing under F/values."""
    torch.set_num_threads(num_threads())
    dataset = Dataset.open(data)
    split = split_named(dataset, "leave-one-out")
    for seed in seeds:
        for direction in DIRECTIONS:
            for part in PARTS:
                out = folder / "values" / f"{part}.{direction}.{seed}.npz"
                if not out.exists():
                    say(f"measuring {out.name}")
                    _measure(dataset, split, folder, seed, part, direction, most, out)


def _measure(
    dataset: Dataset, split: Split, folder: Path, seed: int, part: str, direction: str, most: int, out: Path
) -> None:
    world = world_of(dataset, split, part)
    queries = _some(make_queries(world, split.hidden(part), direction), most)
    # Nothing is chosen for ablations: they are asked on the test part alone.
    names = [name for name in MODELS if part == "test" or name not in ABLATIONS]
    scorers = _of_models(dataset, split, folder, seed, world, direction, names)
    if seed == 0:  # the others do not depend on the seed
        scorers += _baselines(dataset, split, world, direction)
    pools = pools_for(queries, world, direction)
    ranks, competing = rank_pools(scorers, queries, world, direction, pools)
    values = {
        f"{pool.name}/{scorer.name}": np.stack(
            [per_query(name, ranks[number, place], competing[place]) for name in METRICS], axis=1
        ).astype(np.float32)
        for place, pool in enumerate(pools)
        for number, scorer in enumerate(scorers)
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, clusters=queries.sources(direction), **values)


def _of_models(
    dataset: Dataset,
    split: Split,
    folder: Path,
    seed: int,
    world: World,
    direction: str,
    names: Sequence[str],
) -> list[Scorer]:
    scorers: list[Scorer] = []
    for name in names:
        path = folder / "models" / f"{name}-{seed}"
        if not (path / "config.json").exists():
            continue
        model = ModelFolder.open(path).load()
        states = States(model, dataset, world.visible)
        whole = ModelScorer(states)
        if name in ABLATIONS:
            scorers.append(Named(f"{name}: {AS_TRAINED}", whole))
        else:
            scorers += [Named(name, whole), Named(f"{name}: preference", Preference(whole))]
        if name == "joint":
            plain = States(_as_trained(model), dataset, world.visible)
            scorers.append(Named(f"{name}: {AS_TRAINED}", ModelScorer(plain)))
        if direction == ITEM_TO_USER:
            scorers += _of_states(name, states, dataset, split, world, model)
    mirrored = folder / "mirrored"
    if direction == ITEM_TO_USER and (folder / "models" / f"mirror-{seed}/config.json").exists():
        model = ModelFolder.open(folder / "models" / f"mirror-{seed}").load()
        scorers.append(Mirror(model, Dataset.open(mirrored), dataset, world.visible))
    return scorers


def _as_trained(model: TwoSided) -> TwoSided:
    """The model before anything was chosen on validation."""
    plain = copy.deepcopy(model)
    for chosen in (plain.generated_share, plain.popularity, plain.activity):
        chosen.zero_()
    return plain


def _of_states(
    name: str, states: States, dataset: Dataset, split: Split, world: World, model: TwoSided
) -> list[Scorer]:
    """What else a model's states answer, item to user."""
    encoder = Named(f"{name}: {ENCODER}", ItemEncoderScorer(states))
    if name == "joint":
        return [encoder, Named(f"{name}: shuffled", ShuffledItems(states))]
    if name in ABLATIONS:
        return [encoder]
    if name != "one-sided":
        return []
    asked: list[Scorer] = [Transposed(states), MeanOfUsers(states), CentredMean(states)]
    asked += [WeighedMean(states), LogOdds(states)]
    earlier = world_of(dataset, split, "validation")
    before = Preference(ModelScorer(States(model, dataset, earlier.visible)))
    queries = _some(make_queries(earlier, split.hidden("validation"), ITEM_TO_USER), 2000)
    weight = choose_recency(before, earlier, queries)
    say(f"log p + {weight:g} x log recency, chosen on validation")
    recent = Recent(Preference(ModelScorer(states)), Shared(Recency(world)), weight)
    return [Named(f"one-sided: {scorer.name}", scorer) for scorer in (*asked, recent)]


def _baselines(dataset: Dataset, split: Split, world: World, direction: str) -> list[Scorer]:
    earlier = world_of(dataset, split, "validation")
    queries = make_queries(earlier, split.hidden("validation"), direction)
    scorers: list[Scorer] = [MostPopular(world, direction), NearestNeighbours(world, direction)]
    if dataset.timed:
        scorers.append(RecentPopularity(world, direction, choose_window(earlier, queries, direction)))
        if direction == ITEM_TO_USER:
            scorers.append(LastActive(world, direction))
    if dataset.num_items <= MOST_ITEMS:
        scorers += [
            Named(f"ease, {weight:g}", EASE(world, direction, weight))
            for weight in (30.0, 100.0, 300.0, 1000.0)
        ]
    return scorers + [Factorised(world, kind, threads=num_threads()) for kind in ("als", "bpr")]


def _some(queries: Queries, most: int) -> Queries:
    """At most so many queries, the same ones every time."""
    if not most or len(queries) <= most:
        return queries
    kept = np.sort(np.random.default_rng(0).permutation(len(queries))[:most])
    return queries.part(kept)
