"""Epochs of other implementations of SASRec, as their own scripts train, for `training.py`.

Nothing of theirs is here: SASRec.pytorch and gSASRec-pytorch are read from folders, RecTools is installed or not.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from duality.data.dataset import Dataset
from duality.data.histories import Histories

DROPOUT, BLOCKS, HEADS, WORKERS = 0.2, 2, 1, 3
Epoch = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Task:
    """What everybody trains on: the histories of some users, others are empty."""

    dataset: Dataset
    histories: Histories
    dim: int
    length: int
    sequences: int  # a batch
    device: str

    @property
    def users(self) -> np.ndarray:
        return np.flatnonzero(self.histories.lengths)

    def items(self, user: int) -> np.ndarray:
        """Oldest first, counted from 1."""
        indptr, event = self.histories.indptr, self.histories.event
        return self.dataset.event_item[event[indptr[user] : indptr[user + 1]]].astype(np.int64) + 1


def sasrec_pytorch(task: Task, folder: Path) -> Epoch:
    """SASRec.pytorch's model; its batches and negatives are made here, by numpy."""
    step, rng = _sasrec_step(task, folder), np.random.default_rng(0)

    def epoch() -> None:
        for start in range(0, len(task.users), task.sequences):
            users = task.users[start : start + task.sequences]
            seen, after = _padded(task, users, 0)
            negatives = rng.integers(1, task.dataset.num_items + 1, size=seen.shape) * (after > 0)
            step(users, seen, after, negatives)

    return epoch


def sasrec_with_sampler(task: Task, folder: Path) -> Epoch:
    """The same with its own sampler, started with every epoch: three processes, as its main.py has them."""
    step, utils = _sasrec_step(task, folder), _module("sasrec_utils", folder / "utils.py")
    histories = {place: task.items(user).tolist() for place, user in enumerate(task.users, 1)}

    def epoch() -> None:
        sampler = utils.WarpSampler(
            histories, len(histories), task.dataset.num_items, task.sequences, task.length, WORKERS
        )
        for _ in range(-(-len(histories) // task.sequences)):
            step(*(np.array(part) for part in sampler.next_batch()))
        sampler.close()

    return epoch


def _sasrec_step(task: Task, folder: Path) -> Callable[..., None]:
    settings = SimpleNamespace(
        device=task.device,
        norm_first=False,
        hidden_units=task.dim,
        maxlen=task.length,
        dropout_rate=DROPOUT,
        num_blocks=BLOCKS,
        num_heads=HEADS,
    )
    sasrec = _module("sasrec_model", folder / "model.py").SASRec
    model = sasrec(task.dataset.num_users, task.dataset.num_items, settings).to(task.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))

    def step(users: np.ndarray, seen: np.ndarray, after: np.ndarray, negatives: np.ndarray) -> None:
        positive, negative = model(users, seen, after, negatives)
        optimizer.zero_grad()
        rows = np.where(after != 0)
        _bce(positive[rows], negative[rows]).backward()
        optimizer.step()

    return step


def gsasrec(task: Task, folder: Path) -> Epoch:
    """gSASRec-pytorch's model with one negative and plain BCE, what its SASRec is trained with."""
    sys.path.insert(0, str(folder))
    num_items, pad = task.dataset.num_items, task.dataset.num_items + 1
    model = _module("gsasrec", folder / "gsasrec.py").GSASRec(
        num_items, task.length, task.dim, HEADS, BLOCKS, DROPOUT, reuse_item_embeddings=True
    )
    model = model.to(task.device).train()
    optimizer, rng = torch.optim.Adam(model.parameters()), np.random.default_rng(0)

    def epoch() -> None:
        for start in range(0, len(task.users), task.sequences):
            users = task.users[start : start + task.sequences]
            drawn = rng.integers(1, num_items + 1, size=(len(users), task.length))
            seen, after, negatives = (
                torch.from_numpy(part).to(task.device) for part in (*_padded(task, users, pad), drawn)
            )
            states, _ = model(seen)
            table, real = model.get_output_embeddings(), seen != pad
            scores = [(states * table(items)).sum(-1)[real] for items in (after, negatives)]
            _bce(*scores).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def rectools(task: Task, _: Any) -> Epoch:
    """RecTools' SASRecModel with one negative and BCE, its own batches, without what Lightning prints."""
    import pandas as pd
    from pytorch_lightning import Trainer
    from rectools.dataset import Dataset as Interactions
    from rectools.models import SASRecModel

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    accelerator = "cpu" if task.device == "cpu" else "gpu"

    def trainer() -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=1, accelerator=accelerator, enable_checkpointing=False, **quiet)

    model = SASRecModel(
        n_blocks=BLOCKS,
        n_heads=HEADS,
        n_factors=task.dim,
        dropout_rate=DROPOUT,
        session_max_len=task.length,
        loss="BCE",
        n_negatives=1,
        batch_size=task.sequences,
        get_trainer_func=trainer,
    )
    users = np.repeat(task.users, task.histories.lengths[task.users])
    items = np.concatenate([task.items(user) for user in task.users])
    when = pd.to_datetime(np.arange(len(items)), unit="s")
    columns = {"user_id": users, "item_id": items, "weight": 1.0, "datetime": when}
    model.fit(Interactions.construct(pd.DataFrame(columns)))

    def epoch() -> None:
        deepcopy(model._trainer).fit(model.lightning_model, model.data_preparator.get_dataloader_train())

    return epoch


PEERS: dict[str, tuple[str, Callable[[Task, Any], Epoch]]] = {
    "SASRec.pytorch, its model alone": ("sasrec", sasrec_pytorch),
    "SASRec.pytorch with its sampler": ("sasrec", sasrec_with_sampler),
    "gSASRec-pytorch, BCE": ("gsasrec", gsasrec),
    "RecTools, BCE": ("rectools", rectools),
}


def _padded(task: Task, users: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and the items after them, int64 [B, L], padded on the left."""
    seen, after = np.full((2, len(users), task.length), pad, np.int64)
    for row, user in enumerate(users):
        items = task.items(user)
        seen[row, task.length - len(items) + 1 :] = items[:-1]
        after[row, task.length - len(items) + 1 :] = items[1:]
    return seen, after


def _bce(positive: Tensor, negative: Tensor) -> Tensor:
    ones = binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
    return ones + binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
