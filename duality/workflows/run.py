"""`duality run`: import, train, build the indexes, evaluate, choose audiences, as one recipe says; or, for an index that
is there, update it and choose audiences again."""

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
from duality.workflows.recipe import ImportSection, Recipe, TargetSection, UpdateSection, load_recipe
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
    stamps, folder = home() / "runs" / f"{path.stem}.json", path.parent
    return run_recipe(recipe, stamps, device=device, campaigns_folder=folder)


def run_recipe(
    recipe: Recipe,
    stamps: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    campaigns_folder: Path = Path(),
) -> dict[str, Any]:
    """Run a loaded recipe.

    Args:
        root: where its paths start (default `$DUALITY_HOME`).
        campaigns_folder: where the path of its campaign file starts.
    """
    base = root if root is not None else home()
    if recipe.update is not None:
        stages = [_updating(recipe, recipe.update, base)]
    else:
        stages = _from_events(recipe, base, device)
    if recipe.target is not None:
        stages.append(_targeting(recipe.target, base / recipe.paths.index, base, campaigns_folder))
    return run_stages(stages, stamps)


def _updating(recipe: Recipe, section: UpdateSection, base: Path) -> Stage:
    from duality.workflows.index import Index

    index, source = base / recipe.paths.index, _path(section.events)

    def action() -> dict[str, Any]:
        with Index.open(index, "w") as opened:
            return opened.update(source, where=section.where)

    # Events that are there already are passed over, so that an interrupted update is simply taken again.
    return Stage("update", lambda: [content(source), section.where], index / "index.json", action)


def _targeting(section: TargetSection, index: Path, base: Path, folder: Path) -> Stage:
    from duality.workflows.api import target
    from duality.workflows.targeting import open_for_targeting

    campaigns, out = folder / section.campaigns, base / section.out

    def inputs() -> list[Any]:
        beside = [
            content(file)
            for file in sorted(campaigns.parent.glob("*"))
            if file.suffix in (".csv", ".parquet")
        ]
        return [content(campaigns), beside, open_for_targeting(index).fingerprint, section.report]

    return Stage(
        "target",
        inputs,
        out / "manifest.json",
        lambda: target(index, campaigns=campaigns, out=out, report=section.report),
    )


def _from_events(recipe: Recipe, base: Path, device: str) -> list[Stage]:
    """The stages from a log to an index that is judged."""
    data, model, index = (base / p for p in (recipe.paths.dataset, recipe.paths.model, recipe.paths.index))
    settings = recipe.model_dump(by_alias=True)
    report = model / "evaluation.json"
    evaluation = recipe.evaluate
    return [
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
    ]


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
