"""The duality study: two-sided training beside every one-sided control, with seeds, on one dataset.

    python benchmarks/study.py train   --data D --recipe R --folder F [--seeds 0,1,2] [--only joint,one-sided]
    python benchmarks/study.py measure --data D --folder F [--seeds 0,1,2] [--queries N]
    python benchmarks/study.py judge   --folder F
    python benchmarks/study.py cold    --data D --recipe R --folder F [--seeds 0,1,2] [--split cold-item]

`train` writes F/models/NAME-SEED and leaves out what is there; it can be stopped and started again. `measure`
asks validation and test of every model and control and writes per-query values. `judge` takes the control
that validation likes best for every direction, pool and metric, and compares it, the one-sided model and all
others with the joint model on the test part: paired intervals, Holm over everything. Nothing is chosen on
the test part. `cold` does all three for items or users that were taken out of training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import cold, judging, measuring, training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "measure", "judge", "cold"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join(training.SETTINGS))
    parser.add_argument("--queries", type=int, default=0, help="at most so many of a part; 0 asks all")
    parser.add_argument("--split", choices=cold.SPLITS, default=cold.SPLITS[0], help="of `cold`")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.step == "train":
        training.train_all(given.data, given.recipe, given.folder, seeds, given.only.split(","))
    elif given.step == "measure":
        measuring.measure_all(given.data, given.folder, seeds, given.queries)
    elif given.step == "judge":
        judging.judge_all(given.folder)
    else:
        cold.train_cold(given.data, given.recipe, given.folder, seeds, given.split)
        cold.measure_cold(given.data, given.folder, seeds, given.split)
        cold.judge_cold(given.folder, given.split)


if __name__ == "__main__":
    main()
