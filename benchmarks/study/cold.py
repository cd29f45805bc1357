"""Items (or users) that training never saw, known by their first users (items): the encoders beside pools of the same
and of a one-sided model.

F/cold-item/models/NAME-SEED is trained under the split `cold-item`; F/cold-item/SEED.npz has what was measured with 5
events given, F/cold-item/SEED.json the means for 1, 3, 5 and 10. Likewise `cold-user`.
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
from duality.evaluation.cold import ColdQueries
from duality.evaluation.comparison import compare
from duality.evaluation.queries import DIRECTIONS
from duality.evaluation.ranking import Scorer
from duality.model.folder import ModelFolder
from duality.runtime import num_threads, say
from duality.workflows.cold import HEADLINE, evaluate_cold
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
        means: dict[str, Any] = {}
        for name in NAMES:
            ceiling = _ceiling() if (split_name, name) == ("cold-item", "joint") else None
            model = ModelFolder.open(folder / split.name / "models" / f"{name}-{seed}")
            for direction in DIRECTIONS:
                part, (found, _, _) = evaluate_cold(
                    model,
                    dataset,
                    split,
                    world,
                    direction,
                    baselines=True,
                    others=ceiling,
                    ks=(10, 50),
                )
                values[f"{direction}/cluster"] = found.clusters
                for place, pool in enumerate(found.pools):
                    for scorer in found.ranks:
                        key = f"{direction}/{pool.name}/{_called(name, scorer)}"
                        columns = [found.names.index(metric) for metric in ASKED[direction]]
                        values[key] = found.values(scorer, place)[:, columns].astype(np.float32)
                means[f"{direction}/{name}"] = part["by_events"]
        np.savez_compressed(out, **values)
        out.with_suffix(".json").write_text(json.dumps(means, indent=1), encoding="utf-8")


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
    """Print the joint model's encoder beside everything else, with paired differences."""
    archives = [dict(np.load(path)) for path in sorted((folder / split).glob("*.npz"))]
    tables = []
    for direction in DIRECTIONS:
        pools = sorted({key.split("/")[1] for key in archives[0] if key.startswith(direction)} - {"cluster"})
        tables += [_table(split, direction, pool, archives) for pool in pools]
    judged_together(tables)
    for table in tables:
        title = f"{table['direction']}, {table['pool']}, {split}, {table['given']} events given"
        print_table(title, table["models"], table["comparisons"])
    (folder / split / "judged.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")


def _table(split: str, direction: str, pool: str, archives: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    prefix = f"{direction}/{pool}/"
    names = [key.removeprefix(prefix) for key in archives[0] if key.startswith(prefix)]
    if split == "cold-item":  # an item without a training event: the one-sided model has no vector of it
        names.remove("one-sided: encoder")
    values = {name: np.stack([archive[prefix + name] for archive in archives]) for name in names}
    clusters = archives[0][f"{direction}/cluster"]
    report = compare(values, clusters, ASKED[direction], references=[n for n in names if n != OURS])
    return {"direction": direction, "pool": pool, "given": HEADLINE, **report}
