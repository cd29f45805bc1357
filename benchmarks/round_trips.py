"""Back and forth between the sides: does an item come back from its users, and a user from their items?

    python benchmarks/round_trips.py --data D --folder F [--seeds 0,1,2] [--only joint,no-cycles] [--figure out.svg]

Of the models that benchmarks/study.py trained under F. A turn takes an item's vector, gathers the users who
like it best and lets the item encoder make the item anew from them; and a user's state, the items that user
likes best, and the user encoder. After every turn it counts how often the original is still the nearest of
all. Prints a table; draws it with --figure (extra `report`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import round_trips


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="joint,no-cycles,no-cycle-item,no-cycle-user")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows = round_trips.measure_all(given.data, given.folder, given.only.split(","), seeds, given.turns)
    (given.folder / "round_trips.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    round_trips.print_table(rows)
    if given.figure:
        round_trips.draw(rows, given.figure)


if __name__ == "__main__":
    main()
