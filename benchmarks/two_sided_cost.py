"""What two-sided training costs: seconds an epoch, joint beside one-sided, in turn.

    python benchmarks/two_sided_cost.py --data D [--recipe R] [--rounds 3] [--threads 1]

Both models have the recipe's shape and batches. The joint one is timed once its banks are full and both cycles run;
validation is not timed. The last line is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from study.training import SETTINGS

from duality.data.dataset import Dataset
from duality.data.splits import split_named
from duality.model.ranks import Alone
from duality.training.loop import Trainer
from duality.workflows.attributes import Attributes
from duality.workflows.recipe import load_recipe
from duality.workflows.train import _trainer

FULL = 3  # the first epoch in which every loss runs: one of warm-up, one that fills the bank of items


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = Dataset.open(given.data)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: _made(dataset, given.recipe, name, Path(folder) / name) for name in ("one-sided", "joint")
        }
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for trainer in trainers.values():
            for epoch in range(1, FULL):
                trainer._epoch(epoch)
        for number in range(given.rounds):
            for name, trainer in trainers.items():
                started = time.perf_counter()
                trainer._epoch(FULL + number)
                seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        print(f"{name:10s} {np.median(times):7.2f} s an epoch ({', '.join(f'{t:.2f}' for t in times)})")
    print(f"ratio      {np.median(seconds['joint']) / np.median(seconds['one-sided']):7.2f}")


def _made(dataset: Dataset, recipe: Path | None, name: str, out: Path) -> Trainer:
    settings = load_recipe(recipe, SETTINGS[name])
    split = split_named(dataset, settings.split.name)
    attributes = Attributes.fit(dataset, split, settings.model)
    return _trainer(dataset, split, settings, attributes, out, "cpu", Alone())


if __name__ == "__main__":
    main()
