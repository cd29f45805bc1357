"""`duality run`: import, train, build the indexes, evaluate, as one recipe says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duality.artifacts import write_json
from duality.data import sample
from duality.data.importing import import_events
from duality.data.join_time import JoinTime
from duality.errors import ConfigError
from duality.index.spec import load_spec
from duality.runtime import home
from duality.workflows.build import build_index
from duality.workflows.evaluate import evaluate
from duality.workflows.recipe import ImportSection, Recipe, load_recipe
from duality.workflows.stages import Stage, content, run_stages
from duality.workflows.train import train


def run(path: Path, overrides: Iterable[str] = (), *, device: str = "auto") -> dict[str, Any]:
    """Run every stage of the recipe at `path` that is out of date.

    Returns:
        {stage: its document and `skipped`}.

    Raises:
        ConfigError: the recipe does not fit.
    """
    recipe = load_recipe(path, overrides)
    return run_recipe(recipe, home() / "runs" / f"{path.stem}.json", device=device)


def run_recipe(
    recipe: Recipe, stamps: Path, *, root: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Run a loaded recipe; `root` is where its paths start (default `$DUALITY_HOME`)."""
    base = root if root is not None else home()
    data, model, index = (base / p for p in (recipe.paths.dataset, recipe.paths.model, recipe.paths.index))
    settings = recipe.model_dump(by_alias=True)
    report = model / "evaluation.json"
    evaluation = recipe.evaluate
    return run_stages(
        [
            Stage(
                "import",
                lambda: [settings["import"], [content(file) for file in _sources(recipe.import_)]],
                data / "dataset.json",
                lambda: import_section(recipe.import_, data),
            ),
            Stage(
                "train",
                lambda: [
                    [settings[name] for name in ("split", "model", "loss", "train")],
                    content(data / "dataset.json"),
                ],
                model / "config.json",
                lambda: train(data, model, recipe, device=device),
            ),
            Stage(
                "index",
                lambda: [load_spec(recipe.index.spec).model_dump(), content(model / "config.json")],
                index / "index.json",
                lambda: build_index(model, index, recipe.index.spec, data),
            ),
            Stage(
                "evaluate",
                lambda: [settings["evaluate"], content(model / "config.json")],
                report,
                lambda: _evaluate(
                    report,
                    evaluate(
                        model,
                        data=data,
                        direction=evaluation.direction,
                        candidates=evaluation.candidates,
                        ks=evaluation.k,
                        baselines=evaluation.baselines,
                    ),
                ),
            ),
        ],
        stamps,
    )


def _evaluate(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    write_json(path, report)
    return report


def import_section(section: ImportSection, out: Path) -> dict[str, Any]:
    """Import what `[import]` describes."""
    joined = None
    if section.time_from is not None:
        if section.time_user_map is None or section.time_item_map is None:
            raise ConfigError("import: time_from needs time_user_map and time_item_map")
        joined = JoinTime(_path(section.time_from), section.time_user_map, section.time_item_map)
    skipped = {"source", "time_from", "time_user_map", "time_item_map", "users", "items"}
    return import_events(
        _path(section.source),
        out,
        users=_path(section.users) if section.users else None,
        items=_path(section.items) if section.items else None,
        join_time=joined,
        **section.model_dump(exclude=skipped),
    )


def _path(source: str) -> Path:
    return sample.path() if source == "sample" else home() / source


def _sources(section: ImportSection) -> list[Path]:
    named = (section.source, section.time_from, section.users, section.items)
    return [_path(source) for source in named if source]
