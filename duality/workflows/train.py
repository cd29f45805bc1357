"""`duality train`: a dataset and a recipe in, a model folder out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duality.artifacts import atomic_file, write_json
from duality.data.dataset import Dataset
from duality.data.histories import item_histories, user_histories
from duality.data.split import Split
from duality.data.splits import split_named
from duality.encoders.transformer import Shape
from duality.errors import InputError
from duality.evaluation.queries import DIRECTIONS, USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import rank_full
from duality.metrics import per_query
from duality.model.folder import ModelFolder, save_model
from duality.model.ranks import Alone
from duality.model.two_sided import TwoSided
from duality.runtime import num_threads, say
from duality.training.checkpoint import FOLDER, TrainState
from duality.training.distributed import processes
from duality.training.loop import BANKS, Events, Trainer
from duality.workflows.attributes import Attributes
from duality.workflows.card import model_card
from duality.workflows.choosing import choose
from duality.workflows.recipe import Recipe
from duality.workflows.scorers import ModelScorer, States, TrainedStates

VALIDATION_QUERIES = 2000  # asked after every epoch; all of them are asked once, at the end
METRICS = ("ndcg@10", "recall@10", "recall@100", "auc")


def train(
    data: Path, out: Path, recipe: Recipe, *, device: str = "auto", resume: bool = False
) -> dict[str, Any]:
    """Train both encoders jointly; keep the epoch that validation likes best.

    Args:
        data: dataset folder.
        out: model folder; an older model there stays current until the new one is complete.
        recipe: split, model, loss and train sections are used.
        device: "cpu", "cuda" or "auto".
        resume: go on from the checkpoint under `out`.

    Returns:
        `model`, `epochs`, `best_epoch`, `validation`, `seconds`, `positions_per_second`; nothing in any but the
        first of several processes that `torchrun` started.

    Raises:
        InputError: unknown device or attribute, or nothing to resume.
        TrainingError: a loss is not finite, or there is nothing to train on.
    """
    torch.set_num_threads(num_threads())
    with processes(_device(device)) as ranks:
        return _train(data, out, recipe, device=_device(device), resume=resume, ranks=ranks)


def _train(
    data: Path, out: Path, recipe: Recipe, *, device: str, resume: bool, ranks: Alone
) -> dict[str, Any]:
    dataset = Dataset.open(data)
    split = split_named(dataset, recipe.split.name)
    attributes = Attributes.fit(dataset, split, recipe.model)
    for side, known in attributes.vocabulary.items():
        say(f"attributes of {side}: {known.words()}")
    trainer = _trainer(dataset, split, recipe, attributes, out, device, ranks)
    if resume:
        trainer.resume()
        say(f"resuming after epoch {trainer.state.epoch}")
    world = world_of(dataset, split, "validation")
    sample, seen_as = _asked_after_epochs(
        make_queries(world, split.hidden("validation"), USER_TO_ITEM), trainer.model.trained.cpu().numpy()
    )
    state = trainer.fit(
        lambda model: validation(model, dataset, world, [(USER_TO_ITEM, sample)], METRICS[:2], seen_as)
    )
    if ranks.rank:
        return {}
    model = trainer.model.cpu()
    model.settle()
    directions = DIRECTIONS if recipe.train.validate_item_to_user else (USER_TO_ITEM,)
    asked = {d: make_queries(world, split.hidden("validation"), d) for d in directions}
    some = {d: _some(queries, VALIDATION_QUERIES) for d, queries in asked.items()}
    states = States(model, dataset, world.visible)
    chosen = choose(states, world, some, recipe.choose, generates=trainer.two_sided)
    metrics = validation(model, dataset, world, list(asked.items()), METRICS)
    document = {**_document(out, state, metrics), **chosen}
    _save(out, model, dataset, split, recipe, attributes, document, state)
    return document


def world_of(dataset: Dataset, split: Split, part: str) -> World:
    """What may be known when `part` ("validation" or "test") is predicted."""
    return World(
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        visible=split.visible(part),
        train=split.train,
        event_user=dataset.event_user,
        event_item=dataset.event_item,
        event_time=dataset.event_time,
    )


def validation(
    model: TwoSided,
    dataset: Dataset,
    world: World,
    asked: list[tuple[str, Queries]],
    metrics: tuple[str, ...],
    seen_as: type[States] = States,
) -> dict[str, float]:
    """Full-ranking metrics by name, e.g. `user_to_item.ndcg@10`, of the model's current weights."""
    device = model.empty_user.device
    scorer = ModelScorer(seen_as(model.cpu(), dataset, world.visible))
    values = {}
    for direction, queries in asked:
        ranks, candidates = rank_full(scorer, queries, world, direction)
        for name in metrics:
            value = per_query(name, ranks, candidates).mean()
            values[f"{direction.replace('-', '_')}.{name}"] = float(value)
    model.to(device)
    return values


def _asked_after_epochs(queries: Queries, trained: np.ndarray) -> tuple[Queries, type[States]]:
    """The queries that an epoch is judged by, and what they see: trained items alone, unless most targets are others.

    Raises:
        InputError: there are none.
    """
    if not len(queries):
        raise InputError("nothing to validate on: no user has enough events (leave-one-out needs three)")
    known = trained[queries.item]
    if 2 * known.sum() < len(queries):
        return _some(queries, VALIDATION_QUERIES), States
    return _some(queries.part(known), VALIDATION_QUERIES), TrainedStates


def _trainer(
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    attributes: Attributes,
    out: Path,
    device: str,
    ranks: Alone,
) -> Trainer:
    torch.manual_seed(recipe.train.seed)
    config = recipe.model
    if not dataset.timed:
        # Without time an item's users are a set, and an order among them would be made up.
        if not isinstance(config.item_encoder, Shape):
            raise InputError(
                f"{dataset.path}: no time, so that an item's users have no order: item encoder "
                f"{config.item_encoder.name} needs one, set model.item_encoder.name to transformer or ligr"
            )
        unordered = config.item_encoder.model_copy(update={"positions": "none"})
        config = config.model_copy(update={"item_encoder": unordered})
        say("this log has an order per user but no time: the item side treats its users as a set")
    model = TwoSided(
        dataset.num_items, config, **attributes.codes, events=attributes.vocabulary.get("events")
    )
    model.trained.copy_(
        torch.from_numpy(np.bincount(dataset.event_item[split.train], minlength=dataset.num_items) > 0)
    )
    return Trainer(
        model,
        Events(
            dataset.event_user,
            dataset.event_item,
            dataset.event_time,
            None if model.event_codes is None else model.event_codes.of(dataset),
        ),
        user_histories(dataset, split.train),
        item_histories(dataset, split.train),
        recipe.loss,
        recipe.train,
        folder=out,
        settings=recipe.training_fingerprint(dataset.fingerprint),
        device=device,
        ranks=ranks,
    )


def _device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"no device '{name}': choose auto, cpu or cuda")
    if name == "cuda" and not available:
        raise InputError("no CUDA device here: use --device cpu or auto")
    return name


def _some(queries: Queries, most: int) -> Queries:
    if len(queries) <= most:
        return queries
    kept = np.sort(np.random.default_rng(0).permutation(len(queries))[:most])
    return queries.part(kept)


def _document(out: Path, state: TrainState, metrics: dict[str, float]) -> dict[str, Any]:
    rates = [line["positions_per_second"] for line in state.history]
    return {
        "model": str(out),
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "validation": {name: round(value, 6) for name, value in metrics.items()},
        "seconds": round(state.seconds, 1),
        "positions_per_second": round(float(np.mean(rates))),
    }


def _save(
    out: Path,
    model: TwoSided,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    attributes: Attributes,
    document: dict[str, Any],
    state: TrainState,
) -> None:
    data = {
        "path": os.path.relpath(dataset.path, out),
        "fingerprint": dataset.fingerprint,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "events": dataset.num_events,
        "training_events": int(split.train.sum()),
        "timed": dataset.timed,
    }
    settings = recipe.model_dump(include={"split", "loss", "train"})
    save_model(
        out,
        model,
        ids_from=dataset.path,
        config={"data": data, "vocabulary": attributes.to_json(), **settings},
    )
    write_json(out / "metrics.json", {**document, "history": state.history})
    with atomic_file(out / "README.md") as temporary:
        temporary.write_text(model_card(ModelFolder.open(out).config, document), encoding="utf-8")
    for leftover in (FOLDER, BANKS):
        shutil.rmtree(out / leftover, ignore_errors=True)


def dataset_of(folder: ModelFolder, data: Path | None) -> Dataset:
    """The dataset to use with a model: `data`, else the one the model recorded."""
    return Dataset.open(data if data is not None else folder.path / folder.config["data"]["path"])
