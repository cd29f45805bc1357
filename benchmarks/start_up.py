"""Wall time of whole commands, process start included.

python benchmarks/start_up.py --index indexes/ml1m --user 42
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(arguments: list[str]) -> float:
    """Wall time of one `duality` process; raises when it fails."""
    started = time.perf_counter()
    subprocess.run(["duality", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print minimum, median and maximum of each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--index", required=True)
    parser.add_argument("--user", required=True, help="a user of that index")
    parser.add_argument("--repeat", type=int, default=9)
    asked = parser.parse_args()
    query = ["query", "--index", asked.index, "--user", asked.user]
    print(f"{'command':32} {'min':>6} {'median':>6} {'max':>6}", file=sys.stdout)
    for name, arguments in {"duality --help": ["--help"], "duality query --user": query}.items():
        times = [seconds(arguments) for _ in range(asked.repeat)]
        print(f"{name:32} {min(times):6.3f} {statistics.median(times):6.3f} {max(times):6.3f}")


if __name__ == "__main__":
    main()
