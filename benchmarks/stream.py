"""The last days of a log in time order: a frozen index, one that is updated, and training anew every day.

    python benchmarks/stream.py train   --data D --recipe R --folder F [--days 7] [--seeds 0]
    python benchmarks/stream.py replay  --data D --folder F [--days 7] [--seeds 0]
    python benchmarks/stream.py judge   --folder F

`train` trains one model on what lies before the first day (the one that stays) and one before each later
day, from scratch and with the same recipe. `replay` asks every event of a day, both ways, before it is told:
of the index as it was on the first day, of one that was given the events of each day at its end (and one
that was given them hour by hour), and of the index of the model trained anew that morning. `judge` prints
means, paired differences and costs. Everything stops and starts again where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import stream_judging, stream_replay, stream_training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("train", "replay", "judge"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.step == "train":
        stream_training.train_all(given.data, given.recipe, given.folder, given.days, seeds)
    elif given.step == "replay":
        stream_replay.replay_all(given.data, given.folder, given.days, seeds)
    else:
        stream_judging.judge_all(given.folder)


if __name__ == "__main__":
    main()
