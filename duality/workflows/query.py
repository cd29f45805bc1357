"""`duality query`: one question, one document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duality.errors import InputError
from duality.runtime import say
from duality.workflows.answers import Sample
from duality.workflows.asked import knows_request_time, moment_of
from duality.workflows.index import Index


def answer(
    index: Path,
    *,
    data: Path | None = None,
    user: str | None = None,
    item: str | None = None,
    history: Sequence[str] | None = None,
    audience: Sequence[str] | None = None,
    k: int = 10,
    where: str | None = None,
    include_seen: bool = False,
    at: str | None = None,
    temperature: float | None = None,
    seed: int = 0,
    explain: bool = False,
    probabilities: bool = False,
    exact: bool = False,
) -> dict[str, Any]:
    """Ask an index exactly one thing.

    Args:
        at: request time, ISO 8601, for a user of a model that is told it (`model.request_time`).
        temperature: draw k results without replacement from softmax(score / temperature).
        probabilities: also map scores by the model's score calibration.
        exact: with `temperature`: draw among all records, not among the best max(500, 20 k).

    Returns:
        `query` (what was asked) and `results`: [{`rank`, `id`, `score`, `attributes`}]; with
        `probabilities` results have a `probability`; with `temperature` a `draw_probability` and an
        `inclusion_probability` (the propensity to log), and the document `sampling`; with `explain`
        also `plan`: how the index was searched, and why.

    Raises:
        InputError: not exactly one of user, item, history and audience; `exact` without a
            temperature; `probabilities` of a model without a score calibration.
        UnknownIdError: an id that is not in the index; near ones are suggested.
    """
    asked = {"user": user, "item": item, "history": history, "audience": audience}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise InputError("give exactly one of --user, --item, --history and --audience")
    if exact and temperature is None:
        raise InputError("--exact goes with --temperature: it widens the draw to all records")
    options = {"k": k, "where": where, "include_seen": include_seen}
    moment = None if at is None else moment_of(at)
    with Index.open(index, data=data) as opened:
        if moment is not None and _of_use(opened, given):
            options["at"] = moment
        side = opened.items if user is not None or history is not None else opened.users
        if temperature is None:
            ids, scores, extra = *_best(opened, given, options), {}
            columns: dict[str, Any] = {}
        else:
            sample = _sample(
                opened, given, {**options, "temperature": temperature, "seed": seed, "exact": exact}
            )
            ids, scores = sample.ids, sample.scores
            columns = {
                "draw_probability": sample.draw_probability,
                "inclusion_probability": sample.inclusion_probability,
            }
            extra = {"sampling": _sampling(sample, temperature, seed, exact)}
        if probabilities:
            columns["probability"] = _probabilities(opened, given, ids, scores)
        attributes = side.attributes_of(ids)
        plan = {"plan": side.plan(k, where).as_dict()} if explain else {}
    results = [
        {
            "rank": row + 1,
            "id": identifier,
            "score": float(scores[row]),
            **{name: float(values[row]) for name, values in columns.items()},
            "attributes": attributes[identifier],
        }
        for row, identifier in enumerate(ids)
    ]
    return {"query": given, "results": results, **extra, **plan}


def _of_use(index: Index, given: dict[str, Any]) -> bool:
    if not knows_request_time(index):
        say("this model's encoder does not use the request time: --at changes nothing")
        return False
    if "user" not in given:
        say("only a user's own history has times: --at changes nothing without --user")
        return False
    return True


def _best(index: Index, given: dict[str, Any], options: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    if {"user", "history"} & given.keys():
        return index.recommend_items(**given, **options)
    return index.recommend_users(**given, **options)


def _sample(index: Index, given: dict[str, Any], options: dict[str, Any]) -> Sample:
    if {"user", "history"} & given.keys():
        return index.sample_items(**given, **options)
    return index.sample_users(**given, **options)


def _probabilities(index: Index, given: dict[str, Any], ids: list[str], scores: np.ndarray) -> np.ndarray:
    """Probabilities float64 [k] of the results, by the user of each: the one who asks, or the one found."""
    calibrated = index.calibration
    if not calibrated.uses_history:
        return calibrated(scores)
    if "history" in given:
        return calibrated(scores, np.array(len(given["history"])))
    return calibrated(scores, index.known_events([given["user"]] if "user" in given else ids))


def _sampling(sample: Sample, temperature: float, seed: int, exact: bool) -> dict[str, Any]:
    """What the probabilities refer to, so that they can be used later."""
    return {
        "temperature": temperature,
        "seed": seed,
        "normalised_over": "all records that may be shown" if exact else "the best that may be shown",
        "candidates": sample.candidates,
    }
