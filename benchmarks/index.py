"""Speed, memory and recall of the vector index beside bare FAISS and beside its peers.

    python benchmarks/index.py search --rows 100000
    python benchmarks/index.py peers --prepare

Every ratio is of two things measured in turn in the same run. Indexes are on disk, in temporary
folders. Thread counts are set for everything that has threads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from datetime import date
from pathlib import Path

# Table -> module of benchmarks/index/ and default rows.
TABLES = {
    "search": ("searching", 100_000),
    "upsert": ("upserting", 1_000_000),
    "open": ("opening", 1_000_000),
    "filter": ("filtering", 200_000),
    "churn": ("churning", 100_000),
    "latency": ("latency", 100_000),
    "bulk": ("bulk", 1_000_000),
    "peers": ("peers", 100_000),
}


def options() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kinds", help="index kinds, with commas; each table has its own default")
    parser.add_argument("--data", default="clustered", help="clustered, decaying, or both with a comma")
    parser.add_argument("--engines", help="peers to run, with commas; all by default")
    parser.add_argument("--prepare", action="store_true", help="make the peers' environments and stop")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each measurement may repeat")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.rows = asked.rows or TABLES[asked.table][1]
    return asked


def main() -> None:
    """Measure one table and print it."""
    asked = options()
    # Read once, when OpenMP starts: before anything imports NumPy or FAISS.
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(asked.threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"
    here = Path(__file__).resolve().parent
    sys.path[0] = str(here)
    sys.path.insert(1, str(here.parent))
    module = importlib.import_module(f"index.{TABLES[asked.table][0]}")
    from index.measuring import markdown

    rows = module.measure(asked)
    if asked.json:
        print(json.dumps(rows))
        return
    print(f"{date.today()}, {asked.rows:,} x {asked.dim}, {asked.threads} threads\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
