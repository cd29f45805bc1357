"""Checkpoints: everything that the next epoch needs, written as one folder or not at all.

Random numbers are drawn afresh from (seed, epoch), so no generator state is stored; an epoch that
was cut short is simply run again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from duality.artifacts import atomic_folder, read_json, write_json
from duality.errors import DamageError

FOLDER = "checkpoint"


@dataclass
class TrainState:
    """Where training stands after a whole epoch."""

    epoch: int = 0
    step: int = 0
    item_epoch: int = 0
    item_batch: int = 0
    best_epoch: int = 0
    best_value: float = float("-inf")
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    settings: str = ""


def save_checkpoint(
    folder: Path,
    state: TrainState,
    *,
    model: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizer: dict[str, Any],
    banks: dict[str, Tensor],
) -> None:
    """Replace the checkpoint under the model folder `folder` atomically."""
    with atomic_folder(folder / FOLDER, marker="state.json") as temporary:
        save_file({k: v.contiguous() for k, v in model.items()}, temporary / "model.safetensors")
        save_file({k: v.contiguous() for k, v in best.items()}, temporary / "best.safetensors")
        save_file(_flatten(optimizer), temporary / "optimizer.safetensors")
        save_file(banks, temporary / "banks.safetensors")
        write_json(temporary / "state.json", asdict(state))


def load_checkpoint(folder: Path) -> tuple[TrainState, dict[str, dict[str, Tensor]]]:
    """The state, and tensors by file: "model", "best", "optimizer", "banks".

    Raises:
        InputError: there is no checkpoint to resume from.
        DamageError: a file of it cannot be read.
    """
    path = folder / FOLDER
    state = TrainState(**read_json(path / "state.json", what="checkpoint", make="duality train"))
    try:
        tensors = {
            name: load_file(path / f"{name}.safetensors") for name in ("model", "best", "optimizer", "banks")
        }
    except Exception as error:
        raise DamageError(f"{path} is damaged ({error}): train again without --resume") from None
    return state, tensors


def _flatten(optimizer: dict[str, Any]) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value).clone().contiguous()
        for index, slots in optimizer["state"].items()
        for name, value in slots.items()
    }


def optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The state dictionary for `optimizer.load_state_dict`, from tensors of `save_checkpoint`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
