"""`duality compare`: several models, or several seeds of them, on the same queries.

Reads:  model folders trained on one dataset under one split, and that dataset.
Cost:   one evaluation per folder and direction, then the statistics; one model in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.errors import InputError
from duality.evaluation.comparison import compare as compare_values
from duality.evaluation.comparison import judge
from duality.evaluation.protocol import Measured
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM
from duality.metrics import parse_metric, per_query
from duality.model.folder import ModelFolder
from duality.workflows.evaluate import Task, measured
from duality.workflows.scorers import CentredMean, ItemEncoderScorer, ModelScorer
from duality.workflows.train import dataset_of

METRICS = ("ndcg@10", "recall@100")
OF_A_MODEL = (ModelScorer, ItemEncoderScorer, CentredMean)


@dataclass(frozen=True)
class Contestant:
    """A name and the model folders of its seeds, at least one."""

    name: str
    folders: tuple[Path, ...]


def compare(
    models: Sequence[str],
    *,
    data: Path | None = None,
    direction: str = "both",
    protocol: str | None = None,
    split: str = "test",
    metrics: Sequence[str] = METRICS,
    baselines: bool = False,
    against: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Say which model is better, or that no difference is shown.

    Args:
        models: each a folder, folders joined by commas (seeds of one model), or NAME=a,b,c.
        data: dataset folder; by default the one the models recorded.
        direction: "user-to-item", "item-to-user" or "both".
        protocol: must be the one the models were trained for; None takes it from them.
        split: "test" or "validation".
        metrics: names such as ndcg@10.
        baselines: also compare every model with the model-free baselines.
        against: name of the only one that the others are compared with; None compares all pairs.
        seed: of bootstrap and randomisation.

    Returns:
        {direction: {queries, candidates, models, comparisons, judged_together}}; see
        `duality.evaluation.comparison.compare`. Item-to-user with times has also
        `time_matched` with its own candidates, models and comparisons. `judged_together` is
        the number of hypotheses that Holm's correction is over: all of the answer.

    Raises:
        InputError: fewer than two things to compare, two of one name, models of different datasets
            or splits, an unknown metric, or a cold protocol.
    """
    names = [parse_metric(name).name for name in dict.fromkeys(metrics)]
    asked = contestants(models, alone=baselines)
    if against is not None and against not in [entry.name for entry in asked]:
        raise InputError(f"--against {against}: no model is called that: {', '.join(e.name for e in asked)}")
    opened = {entry.name: [ModelFolder.open(path) for path in entry.folders] for entry in asked}
    dataset = _common_dataset([folder for folders in opened.values() for folder in folders], data)
    wanted = _common_split([folder for folders in opened.values() for folder in folders], protocol)
    division = split_named(dataset, wanted)
    how = {"candidates": "full", "ks": None, "seed": seed}
    task = Task(None, dataset, division, split, baselines, None, how)
    directions = (USER_TO_ITEM, ITEM_TO_USER) if direction == "both" else (direction,)
    return _judged({name: _direction(opened, task, name, names, seed, against) for name in directions})


def contestants(models: Sequence[str], *, alone: bool = False) -> list[Contestant]:
    """Read the MODEL arguments.

    Args:
        models: "a", "a,b" or "NAME=a,b"; a folder whose own name holds "," or "=" is taken as it is.
        alone: whether one model is enough.

    Raises:
        InputError: too few, two of one name, or a folder named twice.
    """
    found = [_contestant(text) for text in models]
    if len(found) < (1 if alone else 2):
        raise InputError("compare needs two models, or one and --baselines")
    names = [entry.name for entry in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two models are called '{twice}': write NAME=FOLDER to tell them apart")
    folders = [path.resolve() for entry in found for path in entry.folders]
    if len(set(folders)) < len(folders):
        raise InputError("a model folder is named twice: it would be compared with itself")
    return found


def _contestant(text: str) -> Contestant:
    if Path(text).is_dir():
        return Contestant(Path(text).resolve().name, (Path(text),))
    name, equals, rest = text.partition("=")
    folders = tuple(Path(part) for part in (rest if equals else text).split(",") if part)
    if not folders or (equals and not name):
        raise InputError(f"'{text}': write FOLDER, FOLDER,FOLDER (seeds of one model) or NAME=FOLDER,FOLDER")
    return Contestant(name if equals else folders[0].resolve().name, folders)


def _common_dataset(folders: Sequence[ModelFolder], data: Path | None) -> Dataset:
    dataset = dataset_of(folders[0], data)
    for folder in folders:
        trained_on = folder.config["data"]["fingerprint"]
        if trained_on != dataset.fingerprint:
            raise InputError(
                f"{folder.path} was trained on dataset {trained_on}, not on {dataset.path} "
                f"({dataset.fingerprint}): compare models that were trained on the same data"
            )
    return dataset


def _common_split(folders: Sequence[ModelFolder], protocol: str | None) -> str:
    wanted = protocol or str(folders[0].config["split"]["name"])
    for folder in folders:
        trained_for = folder.config["split"]["name"]
        if trained_for != wanted:
            raise InputError(
                f"{folder.path} was trained for {trained_for}, not for {wanted}: its weights saw other "
                f"events; train it with `duality train --set split.name={wanted}`"
            )
    if wanted.startswith("cold-"):
        raise InputError(
            f"compare does not measure {wanted} yet: use `duality evaluate`, or models of another split"
        )
    return wanted


def _direction(
    opened: dict[str, list[ModelFolder]],
    task: Task,
    direction: str,
    names: Sequence[str],
    seed: int,
    against: str | None,
) -> dict[str, Any]:
    ranked, references, some = _ranked(opened, task, direction)
    if against is not None:
        references = [name for name in ranked if name != against]
    parts = []
    for pool in range(len(some.pools)):
        tables = {
            name: np.stack([_values(ranks[pool], some.competing[pool], names) for ranks in seeds])
            for name, seeds in ranked.items()
        }
        found = compare_values(tables, some.clusters, names, references=references, seed=seed)
        parts.append({"queries": len(some.queries), "candidates": some.pools[pool].words, **found})
    first, *rest = parts
    matched = {some.pools[place].name.replace("-", "_"): part for place, part in enumerate(rest, start=1)}
    return {**first, **matched}


def _ranked(
    opened: dict[str, list[ModelFolder]], task: Task, direction: str
) -> tuple[dict[str, list[np.ndarray]], list[str], Measured]:
    """Ranks [P, Q] of each model's seeds and of the baselines, and one measurement that made them."""
    ranked: dict[str, list[np.ndarray]] = {name: [] for name in opened}
    references: dict[str, list[np.ndarray]] = {}
    asked = [(name, folder) for name, folders in opened.items() for folder in folders]
    for place, (name, folder) in enumerate(asked):
        # Baselines do not depend on the model: measured once, beside the first.
        wanted = task.baselines and place == 0
        here = Task(folder, task.dataset, task.division, task.split, wanted, None, task.how)
        some, _, scorers = measured(here, direction)
        ranked[name].append(some.ranks[scorers[0].name])
        others = [scorer.name for scorer in scorers if not isinstance(scorer, OF_A_MODEL)]
        references.update({other: [some.ranks[other]] for other in others})
    return {**references, **ranked}, list(references), some


def _values(ranks: np.ndarray, competing: np.ndarray, names: Sequence[str]) -> np.ndarray:
    return np.stack([per_query(name, ranks, competing) for name in names], axis=1)


def _judged(report: dict[str, Any]) -> dict[str, Any]:
    """Verdicts over every table of the answer at once."""
    tables = [part for one in report.values() for part in (one, one.get("time_matched")) if part]
    rows = judge([row for table in tables for row in table["comparisons"]])
    for table in tables:
        count = len(table["comparisons"])
        table["comparisons"], rows = rows[:count], rows[count:]
    together = sum(len(table["comparisons"]) for table in tables)
    for part in report.values():
        part["judged_together"] = together
    return report
