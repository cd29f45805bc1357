"""`duality evaluate`: a model (or somebody's ranked lists) against hidden events and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duality.data.dataset import Dataset
from duality.data.split import Split
from duality.data.splits import split_named
from duality.errors import InputError
from duality.evaluation import factors
from duality.evaluation.baselines import LastActive, Markov, MostPopular, RecentPopularity, choose_window
from duality.evaluation.ease import EASE, MOST_ITEMS, choose_regularisation
from duality.evaluation.neighbours import NearestNeighbours
from duality.evaluation.pools import MATCHED
from duality.evaluation.protocol import Measured, measure
from duality.evaluation.protocol import report as tables_of
from duality.evaluation.queries import ITEM_TO_USER, USER_TO_ITEM, World, make_queries
from duality.evaluation.ranking import Scorer
from duality.evaluation.runs import read_run
from duality.model.folder import ModelFolder
from duality.runtime import num_threads, say
from duality.workflows.cold import HEADLINE, evaluate_cold
from duality.workflows.report import about_of, check_report, details, write_report
from duality.workflows.scorers import CentredMean, ItemEncoderScorer, ModelScorer, States
from duality.workflows.train import dataset_of, world_of


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
    matched: int = MATCHED,
    report: Path | None = None,
    figures: Path | None = None,
) -> dict[str, Any]:
    """Measure a model, or the lists in `run`, one or both directions.

    Args:
        model: model folder; with `run` and `data`, None will do.
        protocol: default is the one that the model was trained for.
        split: "test" or "validation".
        candidates: "full", "uniform:N" or "popularity:N".
        ks: cutoffs of ndcg, recall and mrr [5, 10, 20].
        baselines: also fit and measure the baselines, on the same queries.
        run: ranked lists to measure instead of the model; needs one direction.
        seed: of sampled candidates and of the bootstrap.
        matched: users in the time-matched pool of item-to-user queries.
        report: also write one self-contained HTML page here; needs the extra `report`.
        figures: folder for the figures of that page, as SVG and PNG.

    Returns:
        {direction: report}; see `duality.evaluation.protocol.evaluate`, and `evaluate_cold` for
        cold items and users.

    Raises:
        InputError: the model was trained on other data or under another split, a protocol that
            needs time on a log without, or nothing to ask.
    """
    if report is not None:
        check_report(report)
    elif figures is not None:
        raise InputError(f"{figures}: figures belong to a report: name its page with --report")
    folder = ModelFolder.open(model) if model is not None else None
    dataset = _dataset(folder, data)
    wanted = protocol or (folder.config["split"]["name"] if folder else "leave-one-out")
    division = split_named(dataset, wanted)
    _check_trained_for(folder, wanted)
    if run is not None and direction == "both":
        raise InputError("--run holds lists of one direction: add --direction user-to-item or item-to-user")
    if matched < 1:
        raise InputError(f"{matched} time-matched users: give at least 1")
    how = {"candidates": candidates, "ks": ks, "seed": seed, "matched": matched}
    task = Task(folder, dataset, division, split, baselines, run, how)
    names = (USER_TO_ITEM, ITEM_TO_USER) if direction == "both" else (direction,)
    cold = division.cold is not None and split == "test"
    measured_parts = {name: (_cold if cold else _ordinary)(task, name) for name in names}
    document = {name: part for name, (part, _) in measured_parts.items()}
    if report is not None:
        columns = dataset.event_attributes()
        evidence = {
            name: details(*found, columns=columns, seed=seed) for name, (_, found) in measured_parts.items()
        }
        write_report(document, evidence, report, about=about_of(folder, dataset, run=run), figures=figures)
    return document


# What a report page looks at beyond the numbers: ranks, what was known, and who scored.
Evidence = tuple[Measured, World, list[Scorer]]


@dataclass(frozen=True, eq=False)
class Task:
    """What is measured on what.

    Args:
        folder: the model, if there is one.
        dataset, division, split: the log, its division, and the part that is asked.
        baselines: whether baselines are measured too.
        run: ranked lists instead of the model.
        how: `candidates`, `ks`, `seed` and `matched` of `duality.evaluation.protocol.evaluate`.
    """

    folder: ModelFolder | None
    dataset: Dataset
    division: Split
    split: str
    baselines: bool
    run: Path | None
    how: dict[str, Any]


def measured(task: Task, direction: str) -> Evidence:
    """Ranks of every scorer for one direction, what was known, and the scorers."""
    world = world_of(task.dataset, task.division, task.split)
    queries = make_queries(world, task.division.hidden(task.split), direction)
    scorers = _scorers(
        task.folder,
        task.dataset,
        task.division,
        world,
        direction,
        run=task.run,
        baselines=task.baselines,
    )
    return measure(scorers, queries, world, direction, **task.how), world, scorers


def _ordinary(task: Task, direction: str) -> tuple[dict[str, Any], Evidence]:
    found = measured(task, direction)
    part = tables_of(found[0], protocol=task.division.name, split=task.split, seed=task.how["seed"])
    part["protocol"]["windows"] = {
        scorer.name: f"{scorer.days} days, chosen on validation"
        for scorer in found[2]
        if isinstance(scorer, RecentPopularity)
    }
    return part, found


def _cold(task: Task, direction: str) -> tuple[dict[str, Any], Evidence]:
    if task.folder is None or task.run is not None or task.how["candidates"] != "full":
        raise InputError(
            f"{task.division.name} ranks all candidates with a model: leave out --run and --candidates"
        )
    world = world_of(task.dataset, task.division, "test")
    how = {key: value for key, value in task.how.items() if key != "candidates"}
    part, by_events = evaluate_cold(
        task.folder, task.dataset, task.division, world, direction, baselines=task.baselines, **how
    )
    return part, by_events[HEADLINE]


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
    earlier = world_of(dataset, split, "validation")
    asked = make_queries(earlier, split.hidden("validation"), direction)
    if dataset.timed:
        days = choose_window(earlier, asked, direction)
        scorers.append(RecentPopularity(world, direction, days))
        if direction == ITEM_TO_USER:
            scorers.append(LastActive(world, direction))
    scorers += [NearestNeighbours(world, direction), Markov(world, direction)]
    if dataset.num_items <= MOST_ITEMS:
        regularisation = choose_regularisation(earlier, asked, direction)
        say(f"ease: regularisation {regularisation:g}, chosen on validation, {direction}")
        scorers.append(EASE(world, direction, regularisation))
    else:
        say(f"ease is left out: {dataset.num_items:,} items, and it inverts an array of items by items")
    if factors.installed():
        scorers += [factors.Factorised(world, kind, threads=num_threads()) for kind in ("als", "bpr")]
    else:
        say(f"als and bpr are left out: {factors.EXTRA}")
    return scorers
