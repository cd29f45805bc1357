"""`duality calibrate`: a model and logged impressions in; a map from scores to probabilities out.

The map is fitted on the earlier impressions, chosen among kinds by log loss over folds of users,
measured on the later ones, and stored with the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from duality import calibration
from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.errors import InputError
from duality.evaluation import reliability
from duality.model.folder import ModelFolder
from duality.workflows.calibration_file import FILE, write_calibration
from duality.workflows.impressions import Impressions, Scored, read_impressions, score_impressions
from duality.workflows.train import dataset_of

Array = np.ndarray

HISTORY_EDGES = (1, 3, 6, 12)  # events of the user so far: 0, 1-2, 3-5, 6-11, 12 and more


def calibrate(
    model: Path,
    impressions: Path,
    *,
    data: Path | None = None,
    columns: dict[str, str | None] | None = None,
    where: str | None = None,
    share: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit, measure and store a score calibration.

    Args:
        model: model folder; `calibration.json` is written there.
        impressions: a file with user, item, time and label.
        data: dataset folder; None takes the one the model recorded.
        columns: role ("user", "item", "time", "label") to a column, where names are unusual.
        where: use only the impressions that meet this filter expression.
        share: of the usable impressions, by time, that the map is fitted on.
        seed: of folds and bootstrap.

    Returns:
        `model`, `chosen`, `map`, `validation_log_loss` {kind: nats}, `fitted_on` and `measured_on`
        (rows, users, positives, from, to), `dropped` {reason: rows}, `before` (the softmax
        probability), `after` (the map) and `compared` {constant, platt, raw_platt}: each `ece`
        {value, low, high, floor}, `log_loss`, `history_error`, `user_gap` {value, users};
        `reliability` (bins of the map's probabilities) and `by_history` (rows by events of the
        user so far). All measured on the later part. `raw_platt` is fitted on the inner product
        without the user's partition.

    Raises:
        InputError: a log without time, another dataset, or nothing to fit on or to measure on.
        DataError: the file does not fit; file, row and column are named.
    """
    if not 0 < share < 1:
        raise InputError(f"share {share}: give a number between 0 and 1")
    folder = ModelFolder.open(model)
    dataset = _dataset(folder, data)
    train = split_named(dataset, folder.config["split"]["name"]).train
    assert dataset.event_time is not None
    shown = read_impressions(
        impressions, dataset, int(np.asarray(dataset.event_time)[train].max()), columns or {}, where
    )
    scored = score_impressions(folder.load(), dataset, shown, train)
    early = _earlier(shown, share)
    chosen, losses = calibration.choose(
        scored.score[early], shown.outcome[early], shown.user[early], known=scored.known[early], seed=seed
    )
    document = {
        "model": str(model),
        "chosen": chosen.kind,
        "map": chosen.as_dict(),
        "validation_log_loss": losses,
        "fitted_on": _facts(shown, early),
        "measured_on": _facts(shown, ~early),
        "dropped": {reason: count for reason, count in shown.dropped.items() if count},
        **_measures(chosen, scored, shown, early, seed),
    }
    kept = ("validation_log_loss", "fitted_on", "measured_on", "after", "reliability")
    facts = {name: document[name] for name in kept}
    write_calibration(folder.path, folder.fingerprint, chosen, facts)
    return {**document, "out": str(folder.path / FILE)}


def _dataset(folder: ModelFolder, data: Path | None) -> Dataset:
    dataset = dataset_of(folder, data)
    if dataset.fingerprint != folder.config["data"]["fingerprint"]:
        raise InputError(f"{dataset.path} is not the dataset that {folder.path} was trained on: see --data")
    if dataset.event_time is None:
        raise InputError(
            f"{dataset.path} has an order but no time: states before an impression cannot be told, so "
            "scores cannot be calibrated on it"
        )
    return dataset


def _earlier(shown: Impressions, share: float) -> Array:
    """bool [N]: impressions before the moment that cuts off `share` of them; both parts have rows."""
    early = shown.time < np.quantile(shown.time, share, method="higher")
    if not early.any():
        raise InputError("all impressions have one time: nothing to fit on before what is measured")
    return early


def _facts(shown: Impressions, rows: Array) -> dict[str, Any]:
    moments = shown.time[rows].astype("datetime64[us]")
    return {
        "rows": int(rows.sum()),
        "users": len(np.unique(shown.user[rows])),
        "positives": int(shown.outcome[rows].sum()),
        "from": f"{moments.min()}Z",
        "to": f"{moments.max()}Z",
    }


def _measures(
    chosen: calibration.Map, scored: Scored, shown: Impressions, early: Array, seed: int
) -> dict[str, Any]:
    late, past = ~early, shown.outcome[early]
    others = {
        "constant": calibration.fit_constant(scored.score[early], past)(scored.score[late]),
        "platt": calibration.fit_platt(scored.score[early], past)(scored.score[late]),
        "raw_platt": calibration.fit_platt(scored.raw[early], past)(scored.raw[late]),
    }
    after = chosen(scored.score[late], scored.known[late])

    def quality(probabilities: Array) -> dict[str, Any]:
        return _quality(probabilities, shown.outcome[late], shown.user[late], scored.known[late], seed)

    return {
        "before": quality(np.exp(scored.score[late]).clip(max=1.0)),
        "after": quality(after),
        "compared": {name: quality(probabilities) for name, probabilities in others.items()},
        "reliability": _rows(reliability.reliability(after, shown.outcome[late])),
        "by_history": _by_history(after, others["platt"], shown.outcome[late], scored.known[late]),
    }


def _quality(probabilities: Array, outcome: Array, user: Array, known: Array, seed: int) -> dict[str, Any]:
    low, high = reliability.ece_interval(probabilities, outcome, user, seed=seed)
    gap, users = reliability.user_gap(probabilities, outcome, user)
    return {
        "ece": {
            "value": reliability.ece(probabilities, outcome),
            "low": _finite(low),
            "high": _finite(high),
            "floor": reliability.ece_floor(probabilities, seed=seed),
        },
        "log_loss": calibration.log_loss(probabilities, outcome),
        "history_error": reliability.group_error(probabilities, outcome, _history_group(known)),
        "user_gap": {"value": _finite(gap), "users": users},
    }


def _history_group(known: Array) -> Array:
    return np.searchsorted(HISTORY_EDGES, known, side="right")


def _by_history(after: Array, by_score: Array, outcome: Array, known: Array) -> list[dict[str, Any]]:
    group, table = _history_group(known), []
    for place, least in enumerate((0, *HISTORY_EDGES)):
        rows = group == place
        if rows.any():
            means = {"predicted": after, "predicted_by_score_alone": by_score, "observed": outcome}
            shares = {name: float(values[rows].mean()) for name, values in means.items()}
            table.append({"events_from": least, "rows": int(rows.sum()), **shares})
    return table


def _rows(table: reliability.Reliability) -> list[dict[str, float]]:
    names = ("predicted", "observed", "low", "high", "rows")
    columns = [getattr(table, name).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
