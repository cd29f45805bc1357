"""Items (or users) that training never saw, known by their first users (items): the encoders beside pools of the same
and of a one-sided model.

F/cold-item/models/NAME-SEED is trained under the split `cold-item`; F/cold-item/SEED.npz has what was measured with 1,
3, 5 and 10 events given. Likewise `cold-user`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.evaluation.cold import GIVEN, ColdQueries
from duality.evaluation.comparison import compare
from duality.evaluation.protocol import Measured
from duality.evaluation.queries import DIRECTIONS
from duality.evaluation.ranking import Scorer
from duality.model.folder import ModelFolder
from duality.runtime import num_threads, say
from duality.workflows.cold import evaluate_cold
from duality.workflows.recipe import load_recipe
from duality.workflows.scorers import States
from duality.workflows.train import train, world_of
from study.ceiling import TrainedAfterAll, embeddings_after_all
from study.printing import judged_together, print_table
from study.training import SETTINGS

SPLITS = ("cold-item", "cold-user")
ASKED = {
    "user-to-item": ("recall@50", "recall@10", "ndcg@10", "auc"),
    "item-to-user": ("auc", "recall@50", "ndcg@10"),
}
NAMES = ("joint", "one-sided")
OURS = "joint: encoder"


def train_cold(data: Path, recipe: Path, folder: Path, seeds: Sequence[int], split: str) -> None:
    """Train what is missing."""
    for seed in seeds:
        for name in NAMES:
            out = folder / split / "models" / f"{name}-{seed}"
            if not (out / "config.json").exists():
                say(f"training under {split}: {out.name}")
                settings = [*SETTINGS[name], f"train.seed={seed}", f"split.name={split}"]
                train(data, out, load_recipe(recipe, settings))


def measure_cold(data: Path, folder: Path, seeds: Sequence[int], split_name: str) -> None:
    """Measure what is missing."""
    torch.set_num_threads(num_threads())
    dataset = Dataset.open(data)
    split = split_named(dataset, split_name)
    world = world_of(dataset, split, "test")
    for seed in seeds:
        out = folder / split.name / f"{seed}.npz"
        if out.exists():
            continue
        values: dict[str, np.ndarray] = {}
        for name in NAMES:
            ceiling = _ceiling() if (split_name, name) == ("cold-item", "joint") else None
            model = ModelFolder.open(folder / split.name / "models" / f"{name}-{seed}")
            for direction in DIRECTIONS:
                _, by_events = evaluate_cold(
                    model, dataset, split, world, direction, baselines=True, others=ceiling, ks=(10, 50)
                )
                for given, (found, _, _) in by_events.items():
                    values |= _values(name, direction, given, found)
        np.savez_compressed(out, **values)


def _values(model: str, direction: str, given: int, found: Measured) -> dict[str, np.ndarray]:
    """What every scorer made of the queries, by `direction/pool/given/name`, and `direction/cluster`."""
    columns = [found.names.index(metric) for metric in ASKED[direction]]
    return {f"{direction}/cluster": found.clusters} | {
        f"{direction}/{pool.name}/{given}/{_called(model, scorer)}": found.values(scorer, place)[
            :, columns
        ].astype(np.float32)
        for place, pool in enumerate(found.pools)
        for scorer in found.ranks
    }


def _ceiling() -> Callable[[States, ColdQueries], list[Scorer]]:
    """Makes the ceiling of one model, whose vectors are fitted once."""
    fitted: list[Tensor] = []

    def make(states: States, asked: ColdQueries) -> list[Scorer]:
        if not fitted:
            fitted.append(embeddings_after_all(states, asked))
        return [TrainedAfterAll(states, asked, fitted[0])]

    return make


def _called(model: str, scorer: str) -> str:
    """Encoders of the joint model, pools of either; what needs no model has its own name."""
    if scorer == "duality":
        return f"{model}: encoder"
    return f"{model}: {scorer}" if scorer in ("centred_mean", "log_odds", TrainedAfterAll.name) else scorer


def judge_cold(folder: Path, split: str) -> None:
    """Print the joint model's encoder beside everything else, with paired differences.

    What was given makes a family of its own: the claims are those of five events, the others are context.
    """
    archives = [dict(np.load(path)) for path in sorted((folder / split).glob("*.npz"))]
    tables = []
    for given in GIVEN:
        family = [
            _table(split, direction, pool, given, archives)
            for direction in DIRECTIONS
            for pool in sorted(
                {key.split("/")[1] for key in archives[0] if key.startswith(direction)} - {"cluster"}
            )
        ]
        judged_together(family)
        tables += family
    for table in tables:
        title = f"{table['direction']}, {table['pool']}, {split}, {table['given']} events given"
        print_table(title, table["models"], table["comparisons"])
    (folder / split / "judged.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")


def _table(
    split: str, direction: str, pool: str, given: int, archives: list[dict[str, np.ndarray]]
) -> dict[str, Any]:
    prefix = f"{direction}/{pool}/{given}/"
    names = [key.removeprefix(prefix) for key in archives[0] if key.startswith(prefix)]
    if split == "cold-item":  # an item without a training event: the one-sided model has no vector of it
        names.remove("one-sided: encoder")
    values = {name: np.stack([archive[prefix + name] for archive in archives]) for name in names}
    clusters = archives[0][f"{direction}/cluster"]
    report = compare(values, clusters, ASKED[direction], references=[n for n in names if n != OURS])
    return {"direction": direction, "pool": pool, "given": given, **report}
