"""The training loop: packed batches of both sides, one objective, early stopping on validation.

Reads:  histories of both sides (training events only), a `validate` callable.
Writes: under the model folder, `log.jsonl` (one line per epoch) and `checkpoint/` (atomic).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from duality.artifacts import atomic_file
from duality.config import Config
from duality.data.batches import row_batches
from duality.data.histories import Histories, newest, random_windows
from duality.encoders.base import Layout
from duality.errors import InputError, TrainingError
from duality.model.bank import StateBank
from duality.model.batch import Batch
from duality.model.loss_config import LossConfig
from duality.model.negatives import item_sampler
from duality.model.objective import Objective
from duality.model.ranks import Alone
from duality.model.rivals import Rivals
from duality.model.two_sided import TwoSided
from duality.runtime import progress
from duality.training.checkpoint import TrainState, load_checkpoint, optimizer_state, save_checkpoint

BANKS = "banks"  # where mapped banks lie under the model folder while it trains
Validate = Callable[[TwoSided], dict[str, float]]


class TrainConfig(Config):
    """`[train]` of a recipe."""

    epochs: int = 30
    rows: int = 8000  # events of users per step
    by_length: bool = False  # batches of users with histories of about one length: a control
    item_share: float = 0.5  # events of items per step, as a share of `rows`
    warmup_epochs: int = 1  # epochs of the user side alone, which fill its bank
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    final_rate: float = 0.02  # the cosine schedule ends at this share of learning_rate
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    newest_items: int = 0  # events of each user that F trains on, the last one only asked for; 0: all
    newest_users: int = 0  # events of each item that G trains on and the bank of items keeps; 0: all
    mapped_banks: bool = False  # keep the banks in files under the model folder instead of in memory
    precision: Literal["float32", "bfloat16"] = "float32"  # what the encoders multiply in while they train
    patience: int = 8  # epochs without a better validation before stopping
    metric: str = "user_to_item.ndcg@10"
    # Validate item to user as well once training is over: the state of every prefix is made, which takes encoders that
    # make each alone longer than training did.
    validate_item_to_user: bool = True
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Events:
    """The columns that batches are cut from: int32 users and items, int64 times or None, all [E], and codes of what else
    is known of an event, int32 [E, C] or None."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    context: np.ndarray | None = None


class Trainer:
    """Trains one model on one split.

    Args:
        model: moved to `device` and trained in place.
        events: columns of all events; only those in the histories are read.
        users, items: histories of training events, per side.
        loss, config: settings.
        folder: the model folder, where log and checkpoint go.
        settings: fingerprint of everything that must not change between a run and its resumption.
        ranks: this process among those that train together; alone by default.

    Raises:
        InputError: several processes, and an encoder that cannot be divided; or histories are cut for a two-sided
            model, whose items are made of all their users.
    """

    def __init__(
        self,
        model: TwoSided,
        events: Events,
        users: Histories,
        items: Histories,
        loss: LossConfig,
        config: TrainConfig,
        *,
        folder: Path,
        settings: str = "",
        device: str = "cpu",
        ranks: Alone | None = None,
    ) -> None:
        self.ranks = ranks or Alone()
        _check_divided(model, loss, self.ranks)
        if config.newest_items and loss.two_sided:
            raise InputError(
                "train.newest_items cuts histories, and items are made of all users: it is for one-sided models"
            )
        self.model, self.events = model.to(device), events
        self.users = users = newest(users, config.newest_items)
        self.items = newest(items, config.newest_users)
        self.loss, self.config, self.folder, self.device = loss, config, folder, device
        counts = np.bincount(events.item[users.event], minlength=model.num_items)
        self.sampler = item_sampler(loss.sampler, counts, lambda: self.model.item_table)
        self.rivals = Rivals(events.user, events.item, events.time, users.event, model.num_items)
        mapped = folder / BANKS if config.mapped_banks else None
        self.user_bank, self.item_bank = (
            StateBank(len(events.user), model.dim, kept=kept, folder=mapped and mapped / side)
            for side, kept in (("users", users.event), ("items", self.items.event))
        )
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.98)
        )
        # Each side is clipped alone: G's gradients are several times F's and would shrink them.
        self._sides = _by_side(model)
        self.state = TrainState(settings=settings)
        self.best: dict[str, Tensor] = {}

    @property
    def two_sided(self) -> bool:
        """Whether any term needs the item encoder."""
        return self.loss.two_sided

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            InputError: none there, or it was made with other settings or data.
        """
        state, tensors = load_checkpoint(self.folder)
        if state.settings != self.state.settings:
            raise InputError(
                f"{self.folder}: the checkpoint was made with other settings or data: train without --resume"
            )
        self.state, self.best = state, tensors["best"]
        self.model.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(optimizer_state(self.optimizer, tensors["optimizer"]))
        for name, bank in self._banks().items():
            bank[...] = tensors["banks"][name].numpy()

    def fit(self, validate: Validate) -> TrainState:
        """Train to the last epoch or until validation stops improving; then load the best epoch.

        Args:
            validate: maps the model, in evaluation mode, to metrics by name, higher is better.

        Raises:
            TrainingError: a loss is not finite; the last good checkpoint stays.
        """
        steps = len(row_batches(self.users, self.config.rows))
        if not steps:
            raise TrainingError("nothing to train on: no user has a training event")
        while self.state.epoch < self.config.epochs and not self._stalled():
            started = time.monotonic()
            losses = self._epoch(self.state.epoch + 1)
            trained = time.monotonic() - started
            self.model.eval()
            metrics = self.ranks.first_says(lambda: validate(self.model), self.device)
            self._finish_epoch(losses, metrics, started, trained)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.state

    def _stalled(self) -> bool:
        return self.state.epoch - self.state.best_epoch >= self.config.patience > 0

    def _epoch(self, epoch: int) -> dict[str, float]:
        rng = np.random.default_rng([self.config.seed, epoch])
        torch.manual_seed(int(rng.integers(1 << 62)) + self.ranks.rank)
        self.model.train()
        self.model.low = torch.bfloat16 if self.config.precision == "bfloat16" else None
        objective = Objective(
            self.model,
            self.loss,
            self.user_bank,
            self.item_bank,
            rng,
            rivals=self.rivals,
            sampler=self.sampler,
            ranks=self.ranks,
        )
        batches = row_batches(self.users, self.config.rows, rng, by_length=self.config.by_length)
        rng.shuffle(batches)
        with_items = self.two_sided and epoch > self.config.warmup_epochs
        item_batches = self._item_batches() if with_items else None
        sums: dict[str, float] = {}
        with progress(len(batches), f"epoch {epoch}/{self.config.epochs}", unit="steps") as bar:
            for number, owners in enumerate(batches, 1):
                items = next(item_batches) if item_batches else None
                remake = epoch > self.config.warmup_epochs + 1
                losses = objective.step(self._batch(self.users, owners), items, remake_users=remake)
                for name, value in self._update(losses, epoch, number, len(batches)).items():
                    sums[name] = sums.get(name, 0.0) + value
                bar.advance(note=f"loss {sum(sums.values()) / number:.3f}")
        self.model.low = None
        return {name: value / len(batches) for name, value in sums.items()}

    def _update(self, losses: dict[str, Tensor], epoch: int, number: int, steps: int) -> dict[str, float]:
        values = self.ranks.add({name: float(loss.detach()) for name, loss in losses.items()}, self.device)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"epoch {epoch}, step {number}: loss {', '.join(bad)} is not finite; the last good checkpoint "
                f"is epoch {self.state.epoch}: lower train.learning_rate and run again with --resume"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(steps)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros((), device=self.device)).backward()
        self.ranks.add_gradients(list(self.model.parameters()))
        for side in self._sides:
            torch.nn.utils.clip_grad_norm_(side, self.config.clip_norm)
        self.optimizer.step()
        self.state.step += 1
        return values

    def _rate(self, steps_per_epoch: int) -> float:
        """Linear warm-up, then a cosine down to `final_rate`."""
        config, step = self.config, self.state.step + 1
        if step < config.warmup_steps:
            return step / config.warmup_steps
        done = min(step / (steps_per_epoch * config.epochs), 1.0)
        return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done))

    def _item_batches(self) -> Iterator[Batch]:
        """Endless packed batches of items; the place in the current pass is part of the state."""
        rows = max(1, round(self.config.rows * self.config.item_share))
        while True:
            rng = np.random.default_rng([self.config.seed, self.state.item_epoch, 1])
            windows = random_windows(self.items, self.model.config.item_history, rng)
            batches = row_batches(windows.histories, rows, rng)
            rng.shuffle(batches)
            while self.state.item_batch < len(batches):
                self.state.item_batch += 1
                yield self._batch(windows.histories, batches[self.state.item_batch - 1])
            self.state.item_batch, self.state.item_epoch = 0, self.state.item_epoch + 1

    def _batch(self, histories: Histories, owners: np.ndarray) -> Batch:
        rows, lengths = histories.packed(owners)
        owner = np.repeat(owners, lengths)
        is_user = histories is self.users
        member = self.events.item[rows] if is_user else self.events.user[rows]
        when = None if self.events.time is None else self.events.time[rows]
        context = None if self.events.context is None else self.events.context[rows]
        layout = Layout(lengths, when, owners=owner, context=context)
        if is_user and self.model.config.request_time:
            layout = layout.asked_in_turn()
        return Batch(rows, owner, member.astype(np.int64), layout)

    def _finish_epoch(
        self, losses: dict[str, float], metrics: dict[str, float], started: float, trained: float
    ) -> None:
        state = self.state
        state.epoch += 1
        state.seconds += time.monotonic() - started
        rows = len(self.users.event)
        state.history.append(
            {
                "epoch": state.epoch,
                "loss": {name: round(value, 6) for name, value in losses.items()},
                "validation": metrics,
                "seconds": round(trained, 2),
                "positions_per_second": round(rows / trained),
            }
        )
        value = metrics[self.config.metric]
        if value > state.best_value:
            state.best_value, state.best_epoch = value, state.epoch
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        self._save()

    def _save(self) -> None:
        if self.ranks.rank:
            return
        save_checkpoint(
            self.folder,
            self.state,
            model={k: v.detach().cpu() for k, v in self.model.state_dict().items()},
            best=self.best,
            optimizer=self.optimizer.state_dict(),
            banks={name: torch.from_numpy(bank) for name, bank in self._banks().items()},
        )
        write_log(self.folder / "log.jsonl", self.state.history)

    def _banks(self) -> dict[str, np.ndarray]:
        """What both banks hold; nothing writes those of a one-sided model, and they are as large as its log."""
        if not self.two_sided:
            return {}
        return {
            "user.states": self.user_bank.states,
            "user.log_partition": self.user_bank.log_partition,
            "user.written": self.user_bank.written,
            "item.states": self.item_bank.states,
            "item.written": self.item_bank.written,
        }


def _check_divided(model: TwoSided, loss: LossConfig, ranks: Alone) -> None:
    if ranks.world > 1 and loss.trust:
        raise InputError("loss.trust weighs the rows of a whole batch: start one process, or set it to 0")
    encoders = (model.user_encoder, model.item_side)
    if ranks.world > 1 and any(not encoder.causal or encoder.noisy for encoder in encoders):
        raise InputError(
            "several processes train causal encoders without drawn masks only: start one, or set "
            "model.user_encoder.name and model.item_encoder.name to another"
        )


def write_log(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON line per epoch; rewritten whole, so that it always agrees with the checkpoint."""
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")


def _by_side(model: TwoSided) -> list[list[torch.nn.Parameter]]:
    """Parameters of the item side (G and what belongs to it), and all others."""
    named = list(model.named_parameters())
    of_items = (
        "item_encoder.",
        "item_head.",
        "item_pool.",
        "item_level.",
        "item_partition.",
        "item_gaps.",
        "item_owner.",
        "item_context.",
        "empty_item",
    )
    items = [p for name, p in named if name.startswith(of_items)]
    return [[p for name, p in named if not name.startswith(of_items)], items]


def _parameter_groups(model: TwoSided, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for matrices; none for the vectors of items and attributes (rare ones would fade), norms and biases."""
    named = list(model.named_parameters())
    decayed = [p.dim() > 1 and "item_table" not in n and not n.endswith(".vectors") for n, p in named]
    matrices, others = (
        [p for (_, p), d in zip(named, decayed, strict=True) if d is want] for want in (True, False)
    )
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
