"""The commands as Python functions, with the same names and defaults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duality.runtime import home

PathLike = str | Path


def train(
    data: PathLike | None = None,
    out: PathLike | None = None,
    *,
    recipe: PathLike | None = None,
    settings: Iterable[str] = (),
    device: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train a model; see `duality.workflows.train.train`. `settings` are `section.key=value`."""
    from duality.workflows.recipe import load_recipe
    from duality.workflows.train import train as run

    loaded = load_recipe(Path(recipe) if recipe else None, settings)
    return run(
        _or(data, loaded.paths.dataset), _or(out, loaded.paths.model), loaded, device=device, resume=resume
    )


def build_index(
    model: PathLike | None = None,
    out: PathLike | None = None,
    *,
    spec: PathLike | None = None,
    data: PathLike | None = None,
) -> dict[str, Any]:
    """Build both indexes from a model; see `duality.workflows.build.build_index`."""
    from duality.workflows.build import build_index as run

    return run(_or(model, "models/default"), _or(out, "indexes/default"), spec, Path(data) if data else None)


def evaluate(model: PathLike | None = None, **options: Any) -> dict[str, Any]:
    """Measure a model; options as in `duality.workflows.evaluate.evaluate`."""
    from duality.workflows.evaluate import evaluate as run

    return run(_or(model, "models/default"), **options)


def compare(models: Iterable[str], **options: Any) -> dict[str, Any]:
    """Which model is better; arguments as in `duality.workflows.compare.compare`."""
    from duality.workflows.compare import compare as run

    return run(list(models), **options)


def calibrate(model: PathLike | None = None, *, impressions: PathLike, **options: Any) -> dict[str, Any]:
    """Turn scores into probabilities; options as in `duality.workflows.calibrate.calibrate`."""
    from duality.workflows.calibrate import calibrate as run

    return run(_or(model, "models/default"), Path(impressions), **options)


def target(
    index: PathLike | None = None,
    *,
    campaigns: PathLike,
    out: PathLike,
    dry_run: bool = False,
    report: bool = False,
    engine: str = "local",
    workers: int = 0,
) -> dict[str, Any]:
    """Choose the users of campaigns; see `duality.targeting.run.target`. `report` also writes a page for people;
    `engine` ("local" or "ray") scores with `workers` processes, one per core by default."""
    from duality.targeting.run import target as run
    from duality.workflows.targeting import open_for_targeting
    from duality.workflows.targeting_scale import scoring_by

    path = _or(index, "indexes/default")
    opened, scoring = (
        open_for_targeting(path),
        scoring_by(path, Path(campaigns), engine=engine, workers=workers),
    )
    page = opened.page if report else None
    return run(opened, Path(campaigns), Path(out), dry_run=dry_run, page=page, scoring=scoring)


def _or(path: PathLike | None, default: str) -> Path:
    return Path(path) if path is not None else home() / default
