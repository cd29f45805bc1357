"""A recipe: one TOML file with every setting from the source of events to the evaluation.

Each section belongs to the component it configures; this file only puts them together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from duality.artifacts import fingerprint
from duality.config import Config, read_toml, validate, with_overrides
from duality.model.loss_config import LossConfig
from duality.model.two_sided import ModelConfig
from duality.training.loop import TrainConfig
from duality.workflows.choosing import ChooseConfig


class ImportSection(Config):
    """`[import]`: where events come from; the options of `duality data import`."""

    source: str = "sample"  # a path, or "sample" for the bundled one
    user_column: str | None = None
    item_column: str | None = None
    time_column: str | None = None
    order_column: str | None = None
    event_column: str | None = None
    min_user_events: int = 1
    min_item_events: int = 1
    where: str | None = None
    repeats: str = "keep"
    users: str | None = None
    items: str | None = None
    time_from: str | None = None  # another source that knows the times of the same pairs
    time_user_map: str | None = None
    time_item_map: str | None = None
    seed: int = 0


class PathsSection(Config):
    """`[paths]`: where each stage writes, from `$DUALITY_HOME`."""

    dataset: str = "datasets/default"
    model: str = "models/default"
    index: str = "indexes/default"


class SplitSection(Config):
    """`[split]`: which events train, choose and judge."""

    name: str = "leave-one-out"


class IndexSection(Config):
    """`[index]`: the index recipe, by name or path."""

    spec: str = "exact"


class EvaluateSection(Config):
    """`[evaluate]`: what is measured at the end."""

    direction: str = "both"
    candidates: str = "full"
    k: tuple[int, ...] = (5, 10, 20)
    baselines: bool = True


class UpdateSection(Config):
    """`[update]`: new events for an index that is there. A recipe that has it trains nothing."""

    events: str  # a path, as in [import]
    where: str | None = None  # rows to keep; by default those of the import, "" keeps all


class TargetSection(Config):
    """`[target]`: audiences at the end."""

    campaigns: str  # the campaign file, from the recipe's own folder
    out: str = "audiences/default"
    report: bool = True


class Recipe(Config):
    """All sections; every one has defaults but the last two, so an empty file is a recipe."""

    import_: ImportSection = Field(default=ImportSection(), alias="import")
    paths: PathsSection = PathsSection()
    split: SplitSection = SplitSection()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    choose: ChooseConfig = ChooseConfig()
    index: IndexSection = IndexSection()
    evaluate: EvaluateSection = EvaluateSection()
    update: UpdateSection | None = None
    target: TargetSection | None = None

    @model_validator(mode="after")
    def _validated_before_chosen(self) -> Recipe:
        needed = self.choose.activity or (self.choose.generated_share and self.loss.two_sided)
        if needed and not self.train.validate_item_to_user:
            raise ValueError(
                "generated_share and activity are chosen on both directions: set train.validate_item_to_user to true, or "
                "choose.generated_share and choose.activity to false"
            )
        return self

    def training_fingerprint(self, data: str) -> str:
        """Identity of a training run: its settings and the dataset's fingerprint."""
        settings = self.model_dump(include={"split", "model", "loss", "train", "choose"})
        return fingerprint(json.dumps(settings, sort_keys=True), data)


def load_recipe(path: Path | None, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe (None: all defaults) and apply `section.key=value` overrides.

    Raises:
        ConfigError: missing file, bad TOML, unknown key or value that does not fit.
    """
    values: dict[str, Any] = read_toml(path) if path else {}
    return validate(Recipe, with_overrides(values, overrides), source=str(path or "settings"))
