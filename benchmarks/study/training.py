"""The models of the study: joint, one-sided, and the mirror of the one-sided, each with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from duality.model.batch import Batch
from duality.model.live import Live
from duality.model.objective import Objective
from duality.runtime import say
from duality.training import loop
from duality.workflows.mirror import mirror
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

_ITEM_SIDE = ("next_user", "items_compete", "cycle_item", "cycle_user")
SETTINGS: dict[str, tuple[str, ...]] = {
    "joint": (),
    "one-sided": ("loss.users_compete=0", *(f"loss.{term}=0" for term in _ITEM_SIDE)),
    # The simplest form of duality: users compete for the item on the bare score, no item encoder.
    "simple": (
        "loss.users_compete=0.5",
        "loss.users_compete_on=score",
        *(f"loss.{term}=0" for term in _ITEM_SIDE),
    ),
}
# Compared as they come out of training: what is chosen afterwards would hide what a loss does.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "no-cycles": ("loss.cycle_item=0", "loss.cycle_user=0"),
    "no-users-compete": ("loss.users_compete=0",),
    "no-next-user": ("loss.next_user=0",),
    "no-items-compete": ("loss.items_compete=0",),
    "no-cycle-item": ("loss.cycle_item=0",),
    "no-cycle-user": ("loss.cycle_user=0",),
    # Gradients of the item side stop at the bank, even where the batch has the user's live state.
    "bank-only": ("loss.live_users=false",),
    "history-8": ("model.item_history=8",),
    "history-32": ("model.item_history=32",),
    "shared-encoder": ("model.shared_encoder=true",),
    # The same network told nothing of the order in which an item's users came.
    "shuffled": ("model.item_encoder.positions=shuffled",),
    # Every user enters an item's history as they were just after the meeting: what a leak looks like.
    "leaking": (),
}
_UNCHOSEN = tuple(f"choose.{what}=false" for what in ("generated_share", "popularity", "activity"))
SETTINGS |= {name: (*settings, *_UNCHOSEN) for name, settings in ABLATIONS.items()}
LEAKING = "leaking"
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
                with leaking() if name == LEAKING else nullcontext():
                    train(data, out, load_recipe(recipe, settings))


class LeakingObjective(Objective):
    """Users enter item histories as they were just after each meeting: they hold the item to be found."""

    def _user_side(self, batch: Batch) -> tuple[Live, dict[str, Tensor]]:
        live, losses = super()._user_side(batch)
        vectors = self.model.item_table[self._tensor(batch.members)]
        after = self.model.user_states(vectors, batch.layout)
        self.user_bank.write(batch.events, after, self.model.log_partition(after))
        return replace(live, state=after), losses


@contextmanager
def leaking() -> Iterator[None]:
    """Models trained within see the leak; evaluation never does."""
    loop.Objective = LeakingObjective  # type: ignore[misc]
    try:
        yield
    finally:
        loop.Objective = Objective  # type: ignore[misc]


def _train_mirror(data: Path, recipe: Path, folder: Path, out: Path, seed: int) -> None:
    mirrored = folder / "mirrored"
    if not (mirrored / "dataset.json").exists():
        mirror(data, "leave-one-out", mirrored)
    settings = [
        *SETTINGS["one-sided"],
        f"train.seed={seed}",
        f"split.name=file:{mirrored / 'split.parquet'}",
        *_UNCHOSEN,
    ]
    train(mirrored, out, load_recipe(recipe, settings))
