"""`duality evaluate`: a model (or somebody's ranked lists) against hidden events and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duality.data.dataset import Dataset
from duality.data.splits import Split, split_named
from duality.errors import InputError
from duality.evaluation.baselines import LastActive, Markov, MostPopular, RecentPopularity, choose_window
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.protocol import evaluate as measure
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, World, make_queries
from duality.evaluation.ranking import Scorer
from duality.evaluation.runs import read_run
from duality.model.folder import ModelFolder
from duality.runtime import num_threads
from duality.workflows.scorers import CentredMean, ItemEncoderScorer, ModelScorer, States
from duality.workflows.train import dataset_of, world_of

LATER = ("cold-item", "cold-user")


def evaluate(
    model: Path | None,
    *,
    data: Path | None = None,
    direction: str = "both",
    protocol: str | None = None,
    split: str = "test",
    candidates: str = "full",
    ks: Sequence[int] | None = None,
    baselines: bool = False,
    run: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model, or the lists in `run`, one or both directions.

    Args:
        model: model folder; with `run` and `data`, None will do.
        protocol: default is the one that the model was trained for.
        split: "test" or "validation".
        candidates: "full", "uniform:N" or "popularity:N".
        baselines: also fit and measure the baselines, on the same queries.
        run: ranked lists to measure instead of the model; needs one direction.

    Returns:
        {direction: report}; see `duality.evaluation.protocol.evaluate`.

    Raises:
        InputError: the model was trained on other data or under another split, a protocol that
            needs time on a log without, or nothing to ask.
    """
    folder = ModelFolder.open(model) if model is not None else None
    dataset = _dataset(folder, data)
    if protocol in LATER:
        raise InputError(f"protocol {protocol} is not in this version: choose leave-one-out or temporal")
    wanted = protocol or (folder.config["split"]["name"] if folder else "leave-one-out")
    division = split_named(dataset, wanted)
    _check_trained_for(folder, wanted)
    if run is not None and direction == "both":
        raise InputError("--run holds lists of one direction: add --direction user-to-item or item-to-user")
    report = {}
    for name in (USER_TO_ITEM, ITEM_TO_USER) if direction == "both" else (direction,):
        world = world_of(dataset, division, split)
        queries = make_queries(world, division.hidden(split), name)
        scorers = _scorers(folder, dataset, division, world, name, run=run, baselines=baselines)
        part = measure(
            scorers,
            queries,
            world,
            name,
            candidates=candidates,
            ks=ks,
            seed=seed,
            protocol=wanted,
            split=split,
        )
        windows = {
            s.name: f"{s.days} days, chosen on validation" for s in scorers if isinstance(s, RecentPopularity)
        }
        part["protocol"]["windows"] = windows
        report[name] = part
    return report


def _dataset(folder: ModelFolder | None, data: Path | None) -> Dataset:
    if folder is None:
        if data is None:
            raise InputError("name a model with --model or a dataset with --data")
        return Dataset.open(data)
    dataset = dataset_of(folder, data)
    trained_on = folder.config["data"]["fingerprint"]
    if dataset.fingerprint != trained_on:
        raise InputError(
            f"{folder.path} was trained on dataset {trained_on}, and {dataset.path} is {dataset.fingerprint}: "
            "its test events may have trained the model; evaluate on the dataset it was trained on"
        )
    return dataset


def _check_trained_for(folder: ModelFolder | None, protocol: str) -> None:
    if folder is not None and folder.config["split"]["name"] != protocol:
        raise InputError(
            f"the model was trained for {folder.config['split']['name']}, so its weights saw events that {protocol} "
            f"hides: train one with `duality train --set split.name={protocol}`"
        )


def _scorers(
    folder: ModelFolder | None,
    dataset: Dataset,
    split: Split,
    world: World,
    direction: str,
    *,
    run: Path | None,
    baselines: bool,
) -> list[Scorer]:
    scorers: list[Scorer] = []
    if run is not None:
        asked, wanted = dataset.user_ids, dataset.item_ids
        if direction == ITEM_TO_USER:
            asked, wanted = wanted, asked
        scorers.append(read_run(run, query_ids=asked, target_ids=wanted, direction=direction))
    elif folder is not None:
        scorers += _model_scorers(folder, dataset, world, direction, controls=baselines)
    else:
        raise InputError("nothing to evaluate: name a model with --model or lists with --run")
    return scorers + (_baselines(dataset, split, world, direction) if baselines else [])


def _model_scorers(
    folder: ModelFolder, dataset: Dataset, world: World, direction: str, *, controls: bool
) -> list[Scorer]:
    import torch

    torch.set_num_threads(num_threads())
    states = States(folder.load(), dataset, world.visible)
    scorers: list[Scorer] = [ModelScorer(states)]
    if controls and direction == ITEM_TO_USER:
        scorers += [ItemEncoderScorer(states), CentredMean(states)]
    return scorers


def _baselines(dataset: Dataset, split: Split, world: World, direction: str) -> list[Scorer]:
    scorers: list[Scorer] = [MostPopular(world, direction)]
    if dataset.timed:
        earlier = world_of(dataset, split, "validation")
        days = choose_window(earlier, make_queries(earlier, split.hidden("validation"), direction), direction)
        scorers.append(RecentPopularity(world, direction, days))
        if direction == ITEM_TO_USER:
            scorers.append(LastActive(world, direction))
    return [*scorers, NearestNeighbours(world, direction), Markov(world, direction)]
