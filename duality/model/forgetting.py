"""Users taken out of a model folder: ids, the codes of their attributes, a vector of their own, states on disk.

A model knows users by id only where it was trained with attributes of theirs. Weights that were learned from
their events stay as they are, and keep their fingerprint: what was learned from everybody cannot be
unlearned of one without training again.

Writes: the folder anew beside the old one, which it replaces in one step.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from duality.artifacts import atomic_folder, checksum, write_json
from duality.data.coding import IDENTITY, Vocabulary
from duality.data.ids import Ids, write_ids
from duality.model.folder import USER_CODES, ModelFolder

STATES = ("checkpoint", "banks")  # of a training that was not finished: states of users by event


def forget_users_in_model(folder: ModelFolder, users: Sequence[str]) -> dict[str, Any]:
    """Take users out of a model folder; durable on return.

    Returns:
        `users` (known to it by id), `states` (names of what was removed; an interrupted training starts anew).
    """
    removed = [name for name in STATES if (folder.path / name).exists()]
    for name in removed:
        shutil.rmtree(folder.path / name)
    known = (
        Ids.open(folder.path, "users").find(list(users)) if _knows_users(folder) else np.empty(0, np.int64)
    )
    rows = np.unique(known[known >= 0])
    if len(rows):
        _rewrite(folder, rows)
    return {"users": len(rows), "states": removed}


def knows(folder: ModelFolder, user: str) -> bool:
    """Whether a model folder holds the id of a user, or states of an unfinished training."""
    named = _knows_users(folder) and Ids.open(folder.path, "users").find([user])[0] >= 0
    return bool(named) or any((folder.path / name).exists() for name in STATES)


def _knows_users(folder: ModelFolder) -> bool:
    return (folder.path / "users.ids.bin").exists()


def _rewrite(folder: ModelFolder, rows: np.ndarray) -> None:
    ids = Ids.open(folder.path, "users")
    stays = np.setdiff1d(np.arange(len(ids)), rows)
    tensors = load_file(folder.path / "model.safetensors")
    vocabulary = Vocabulary.from_json(folder.config["vocabulary"]["users"])
    tensors, vocabulary = _without(tensors, vocabulary, torch.from_numpy(stays))
    with atomic_folder(folder.path, marker="config.json") as made:
        changed = shutil.ignore_patterns("users.ids.*", "model.safetensors", "config.json")
        shutil.copytree(folder.path, made, ignore=changed, dirs_exist_ok=True)
        write_ids(made, "users", ids.ids(stays))
        save_file(tensors, made / "model.safetensors")
        known = {**folder.config["vocabulary"], "users": vocabulary.to_json()}
        digest = checksum(made / "model.safetensors")
        write_json(made / "config.json", {**folder.config, "weights_sha256": digest, "vocabulary": known})


def _without(
    tensors: dict[str, Tensor], vocabulary: Vocabulary, stays: Tensor
) -> tuple[dict[str, Tensor], Vocabulary]:
    """Codes of the users who stay; of the column `id`, which has a vector each, their vectors."""
    indptr, code, weight = (tensors[f"{USER_CODES}.{name}"] for name in ("indptr", "code", "weight"))
    values, columns, first = torch.arange(vocabulary.size), [], 0
    for column in vocabulary.columns:
        if column.name == IDENTITY and column.rows:
            own = torch.ones(vocabulary.size, dtype=torch.bool)
            own[first : first + column.rows] = False
            own[first + stays[stays < column.rows]] = True
            values = torch.nonzero(own)[:, 0]
            columns.append(replace(column, rows=int((stays < column.rows).sum())))
        else:
            columns.append(column)
        first += column.size
    lengths = indptr.diff()[stays]
    start = indptr[stays].repeat_interleave(lengths)
    place = (
        start + torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    )
    changed = {
        "indptr": torch.cat((indptr[:1], lengths.cumsum(0))),
        "code": torch.searchsorted(values, code[place]),
        "weight": weight[place].contiguous(),
        "vectors": tensors[f"{USER_CODES}.vectors"][values],
    }
    for name in ("values", "keys"):
        if f"{USER_CODES}.described.{name}" in tensors:
            changed[f"described.{name}"] = tensors[f"{USER_CODES}.described.{name}"][stays]
    named = {f"{USER_CODES}.{name}": tensor.contiguous() for name, tensor in changed.items()}
    return {**tensors, **named}, Vocabulary(tuple(columns))
