"""The models of the study: joint, one-sided, and the mirror of the one-sided, each with every seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duality.runtime import say
from duality.workflows.mirror import mirror
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

_ITEM_SIDE = ("next_user", "items_compete", "cycle_item", "cycle_user")
SETTINGS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "one-sided": ("loss.users_compete=0", *(f"loss.{term}=0" for term in _ITEM_SIDE)),
    # The simplest form of duality: users compete for the item on the bare score, no item encoder.
    "simple": ("loss.users_compete_on=score", *(f"loss.{term}=0" for term in _ITEM_SIDE)),
    "no-cycles": ("loss.cycle_item=0", "loss.cycle_user=0"),
    "no-users-compete": ("loss.users_compete=0",),
}
MIRROR = "mirror"


def train_all(data: Path, recipe: Path, folder: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Train what is missing, seed by seed, so that early seeds can be looked at while others train."""
    for seed in seeds:
        for name in names:
            out = folder / "models" / f"{name}-{seed}"
            if (out / "config.json").exists():
                continue
            say(f"training {out.name}")
            if name == MIRROR:
                _train_mirror(data, recipe, folder, out, seed)
            else:
                settings = [*SETTINGS[name], f"train.seed={seed}"]
                train(data, out, load_recipe(recipe, settings))


def _train_mirror(data: Path, recipe: Path, folder: Path, out: Path, seed: int) -> None:
    mirrored = folder / "mirrored"
    if not (mirrored / "dataset.json").exists():
        mirror(data, "leave-one-out", mirrored)
    settings = [
        *SETTINGS["one-sided"],
        f"train.seed={seed}",
        f"split.name=file:{mirrored / 'split.parquet'}",
        *(f"choose.{what}=false" for what in ("generated_share", "popularity", "activity")),
    ]
    train(mirrored, out, load_recipe(recipe, settings))
