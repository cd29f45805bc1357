"""Training speed: positions of real events a second, ours against padded peers, in turns.

    python benchmarks/training.py --data D [--sasrec FOLDER] [--gsasrec FOLDER] [--rectools] [--bfloat16]
        [--users 1024] [--rounds 3] [--threads 2] [--device cuda]
    torchrun --nproc-per-node 2 benchmarks/training.py ...   (the same, and ours in two processes of a thread each)

Everybody trains on the newest 200 events of the same users, in batches of about as many events, 50 dimensions,
two blocks, one head, dropout .2. The peers (`training_peers.py`) pad to 200 and ask one negative per position.
Ours: the same block and loss; the default encoder with the same loss; the default encoder with a
softmax over all items, which is what our recipes do. Also printed: the share of this machine's matrix-product
rate that each of ours reaches, counted from the products of one epoch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode
from training_peers import PEERS, Task

from duality.data.dataset import Dataset
from duality.data.histories import Histories, user_histories
from duality.data.splits import split_named
from duality.encoders.products import product
from duality.model.loss_config import LossConfig
from duality.model.ranks import Alone
from duality.model.two_sided import ModelConfig, TwoSided
from duality.training.distributed import processes
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
    parser.add_argument("--sasrec", type=Path, help="folder with model.py and utils.py of SASRec.pytorch")
    parser.add_argument("--gsasrec", type=Path, help="folder with gsasrec.py of gSASRec-pytorch")
    parser.add_argument("--rectools", action="store_true", help="RecTools, if it is installed")
    parser.add_argument("--bfloat16", action="store_true", help="ours in bfloat16 as well")
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where everybody trains")
    given = parser.parse_args()
    dataset = Dataset.open(given.data)
    histories = newest_of(dataset, given.users)
    with processes(given.device) as ranks, tempfile.TemporaryDirectory() as folder:
        epochs = {name: (epoch, Alone()) for name, epoch in peers(given, dataset, histories).items()}
        for who in (Alone(), ranks) if ranks.world > 1 else (ranks,):
            for name, settings in OURS.items():
                if settings[2] and not given.bfloat16:
                    continue
                made = packed(dataset, histories, settings, Path(folder), who, given.device)
                epochs[name if who.world == 1 else f"{name}, {who.world} processes"] = made, who
        seconds = in_turns(epochs, ranks, given.rounds, given.threads)
        if ranks.rank == 0:
            report(epochs, seconds, len(histories.event), given)
        in_step(ranks)


def peers(given: argparse.Namespace, dataset: Dataset, histories: Histories) -> dict[str, Epoch]:
    """Epochs of those that were named."""
    task = Task(dataset, histories, DIM, LENGTH, SEQUENCES, given.device)
    folders = {"sasrec": given.sasrec, "gsasrec": given.gsasrec, "rectools": given.rectools}
    return {name: make(task, folders[which]) for name, (which, make) in PEERS.items() if folders[which]}


def report(
    epochs: dict[str, tuple[Epoch, Alone]],
    seconds: dict[str, list[float]],
    positions: int,
    given: argparse.Namespace,
) -> None:
    rate = matrix_rate(given.device)
    where = f"{given.threads} threads" if given.device == "cpu" else torch.cuda.get_device_name()
    print(f"{positions:,} events of {given.users:,} users; {where}, {rate / 1e9:,.0f} GFLOP/s in float32")
    slowest = np.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = np.median(times)
        counted = name in OURS
        share = f"  {products(epochs[name][0]) / median / rate:.0%} of that rate" if counted else ""
        print(f"{name:46s} {positions / median:9,.0f} events/s  {slowest / median:5.2f} x{share}")


def newest_of(dataset: Dataset, users: int) -> Histories:
    """The newest 200 training events of some users with ten or more, the same ones every time."""
    whole = user_histories(dataset, split_named(dataset, "leave-one-out").train)
    chosen = np.flatnonzero(whole.lengths >= 10)
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:users])
    lengths = np.zeros(whole.num_owners, np.int64)
    lengths[chosen] = whole.lengths[chosen].clip(max=LENGTH)
    pieces = [whole.event[whole.indptr[u + 1] - lengths[u] : whole.indptr[u + 1]] for u in chosen]
    return Histories(np.concatenate(([0], np.cumsum(lengths))), np.concatenate(pieces))


def in_turns(
    epochs: dict[str, tuple[Epoch, Alone]], ranks: Alone, rounds: int, threads: int
) -> dict[str, list[float]]:
    """Seconds of each epoch, one of each in turn, after one that does not count; what is one process's the first
    does, with all threads, while the others wait."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        for name, (epoch, who) in epochs.items():
            torch.set_num_threads(max(1, threads // who.world))
            in_step(ranks)
            started = time.perf_counter()
            if who.world > 1 or ranks.rank == 0:
                epoch()
                settle()
            if number:
                seconds[name].append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return seconds


def settle() -> None:
    """Wait for what a GPU was given to do; a processor has done it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_step(ranks: Alone) -> None:
    if ranks.world > 1:
        dist.barrier()


def packed(
    dataset: Dataset,
    histories: Histories,
    settings: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
    folder: Path,
    who: Alone,
    device: str,
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
        device=device,
        ranks=who,
    )
    return lambda: trainer._epoch(1) and None


def products(epoch: Epoch) -> int:
    """Floating-point operations of the matrix products and attention of one epoch."""
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: one_dnn}
    ) as counter:
        epoch()
    return int(counter.get_total_flops())


def one_dnn(rows: tuple[int, int], weight: tuple[int, int], *_: object, **__: object) -> int:
    """Floating-point operations of a product that the counter does not know."""
    return 2 * rows[0] * rows[1] * weight[0]


def matrix_rate(device: str, rounds: int = 20) -> float:
    """Floating-point operations a second of one large product, the way ours are made, best of several."""
    size = 1_024 if device == "cpu" else 8_192
    left, right = torch.randn(2, size, size, device=device).unbind()
    best = float("inf")
    for _ in range(rounds):
        settle()
        started = time.perf_counter()
        product(left, right)
        settle()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
