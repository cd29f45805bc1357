"""Training speed: positions of real events a second, ours against padded SASRec, in turns.

    python benchmarks/training.py --data D [--sasrec FOLDER] [--users 1024] [--rounds 3] [--threads 2]

Everybody trains on the newest 200 events of the same users, in batches of about as many events, 50 dimensions,
two blocks, one head, dropout .2. SASRec.pytorch (FOLDER holds its model.py) pads to 200 and asks one negative per
position. Ours: the same block and loss; the default encoder with the same loss; the default encoder with a
softmax over all items, which is what our recipes do. Also printed: the share of this machine's matrix-product
rate that each of ours reaches, counted from the products of one epoch.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from duality.data.dataset import Dataset
from duality.data.histories import Histories, user_histories
from duality.data.splits import split_named
from duality.model.loss_config import LossConfig
from duality.model.two_sided import ModelConfig, TwoSided
from duality.training.loop import Events, TrainConfig, Trainer

DIM, LENGTH, SEQUENCES = 50, 200, 128
ONE_SIDED = {
    name: 0.0 for name in ("users_compete", "next_user", "items_compete", "cycle_item", "cycle_user")
}
SHAPE = {"num_blocks": 2, "num_heads": 1, "dropout": 0.2}
LOW = {"precision": "bfloat16"}
BCE = {"kind": "bce", "own_negatives": 1}
OURS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "ours, SASRec's block, BCE": ({"name": "sasrec", "max_length": LENGTH, **SHAPE}, BCE, {}),
    "ours, default encoder, BCE": ({"hidden": 64, **SHAPE}, BCE, {}),
    "the same, bfloat16": ({"hidden": 64, **SHAPE}, BCE, LOW),
    "ours, default encoder, all items": ({"hidden": 64, **SHAPE}, {}, {}),
    "the same with all items, bfloat16": ({"hidden": 64, **SHAPE}, {}, LOW),
}
Epoch = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sasrec", type=Path, help="folder with model.py of SASRec.pytorch")
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = Dataset.open(given.data)
    histories = newest_of(dataset, given.users)
    positions = len(histories.event)
    epochs: dict[str, Epoch] = {}
    if given.sasrec:
        epochs["SASRec.pytorch"] = padded(given.sasrec, dataset, histories)
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in OURS.items():
            epochs[name] = packed(dataset, histories, settings, Path(folder))
        seconds = in_turns(epochs, given.rounds)
        rate = matrix_rate()
        print(
            f"{positions:,} events of {given.users:,} users; {given.threads} threads, {rate / 1e9:.0f} GFLOP/s"
        )
        slowest = np.median(next(iter(seconds.values())))
        for name, times in seconds.items():
            median = np.median(times)
            share = "" if name not in OURS else f"  {products(epochs[name]) / median / rate:.0%} of that rate"
            print(f"{name:34s} {positions / median:9,.0f} events/s  {slowest / median:5.1f} x{share}")


def newest_of(dataset: Dataset, users: int) -> Histories:
    """The newest 200 training events of some users with ten or more, the same ones every time."""
    whole = user_histories(dataset, split_named(dataset, "leave-one-out").train)
    chosen = np.flatnonzero(whole.lengths >= 10)
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:users])
    lengths = np.zeros(whole.num_owners, np.int64)
    lengths[chosen] = whole.lengths[chosen].clip(max=LENGTH)
    pieces = [whole.event[whole.indptr[u + 1] - lengths[u] : whole.indptr[u + 1]] for u in chosen]
    return Histories(np.concatenate(([0], np.cumsum(lengths))), np.concatenate(pieces))


def in_turns(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Seconds of each epoch, one of each in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            epoch()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def packed(
    dataset: Dataset,
    histories: Histories,
    settings: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
    folder: Path,
) -> Epoch:
    """An epoch of ours, the user side alone."""
    shape, loss, training = settings
    model = TwoSided(
        dataset.num_items,
        ModelConfig.model_validate({"dim": DIM, "user_encoder": shape, "item_encoder": SHAPE}),
    )
    rows = SEQUENCES * len(histories.event) // int((histories.lengths > 0).sum())
    trainer = Trainer(
        model,
        Events(dataset.event_user, dataset.event_item, dataset.event_time),
        histories,
        histories,
        LossConfig.model_validate({**ONE_SIDED, **loss}),
        TrainConfig.model_validate({"rows": rows, "epochs": 1_000, **training}),
        folder=folder,
    )
    return lambda: trainer._epoch(1) and None


def padded(folder: Path, dataset: Dataset, histories: Histories) -> Epoch:
    """An epoch of SASRec.pytorch as its main.py trains."""
    spec = importlib.util.spec_from_file_location("sasrec_pytorch", folder / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = SimpleNamespace(
        device="cpu",
        norm_first=False,
        hidden_units=DIM,
        maxlen=LENGTH,
        dropout_rate=0.2,
        num_blocks=2,
        num_heads=1,
    )
    model = module.SASRec(dataset.num_users, dataset.num_items, settings).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    criterion, owners = torch.nn.BCEWithLogitsLoss(), np.flatnonzero(histories.lengths)
    rng = np.random.default_rng(0)

    def epoch() -> None:
        for start in range(0, len(owners), SEQUENCES):
            users = owners[start : start + SEQUENCES]
            seen, after = padded_batch(dataset, histories, users)
            negatives = rng.integers(1, dataset.num_items + 1, size=seen.shape) * (after > 0)
            positive, negative = model(users, seen, after, negatives)
            optimizer.zero_grad()
            rows = np.where(after != 0)
            loss = criterion(positive[rows], torch.ones_like(positive[rows]))
            (loss + criterion(negative[rows], torch.zeros_like(negative[rows]))).backward()
            optimizer.step()

    return epoch


def padded_batch(dataset: Dataset, histories: Histories, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items and the items after them, int64 [B, 200], left-padded with 0; items count from 1."""
    seen, after = np.zeros((2, len(users), LENGTH), np.int64)
    for row, user in enumerate(users):
        items = dataset.event_item[histories.event[histories.indptr[user] : histories.indptr[user + 1]]] + 1
        seen[row, LENGTH - len(items) + 1 :] = items[:-1]
        after[row, LENGTH - len(items) :] = items
    return seen, after


def products(epoch: Epoch) -> int:
    """Floating-point operations of the matrix products and attention of one epoch."""
    with FlopCounterMode(display=False) as counter:
        epoch()
    return int(counter.get_total_flops())


def matrix_rate(size: int = 1_024, rounds: int = 20) -> float:
    """Floating-point operations a second of one large product, best of several."""
    left, right = torch.randn(2, size, size).unbind()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
