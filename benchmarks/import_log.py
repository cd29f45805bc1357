"""Time and memory of importing a synthetic log.

    python benchmarks/import_log.py --rows 1000000 --kind parquet --repeat 5
    python benchmarks/import_log.py --rows 50000000 --limit-mb 2048

The log: items drawn from a Zipf law, times uniform over a year, a rating column, rows shuffled.
The import runs in a process of its own; `peak MB` is that process's largest resident set. With
--limit-mb its data segment (all private memory) is limited as well, so that going over it fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_BATCH = 1_000_000


def batches(rows: int, users: int, items: int, seed: int) -> Iterator[object]:
    """Record batches of the log: user_id, item_id int64, rating int8, timestamp int64 seconds."""
    import numpy as np
    import pyarrow as pa

    generator = np.random.default_rng(seed)
    weights = np.cumsum(1.0 / np.arange(1, items + 1) ** 0.8)
    for start in range(0, rows, _BATCH):
        count = min(_BATCH, rows - start)
        item = np.searchsorted(weights, generator.random(count) * weights[-1])
        yield pa.record_batch(
            {
                "user_id": generator.integers(0, users, count),
                "item_id": item.astype(np.int64),
                "rating": generator.integers(1, 6, count).astype(np.int8),
                "timestamp": 1_600_000_000 + generator.integers(0, 31_536_000, count),
            }
        )


def write_log(path: Path, rows: int, users: int, items: int, seed: int) -> None:
    """Write the log as Parquet or CSV, by the path's suffix."""
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    writer = None
    for batch in batches(rows, users, items, seed):
        if writer is None:
            make = pc.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
            writer = make(path, batch.schema)  # type: ignore[attr-defined]
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


def run_import(source: Path, out: Path, limit_mb: int, memory_limit: str) -> dict[str, object]:
    """Import in a child process; returns its document with `peak_mb` added."""
    code = (
        "import json, resource, sys\n"
        "source, out, limit, memory = sys.argv[1:]\n"
        "if int(limit): resource.setrlimit(resource.RLIMIT_DATA, (int(limit) << 20,) * 2)\n"
        "from duality.data.importing import import_events\n"
        "document = import_events(source, out, memory_limit=memory)\n"
        "document['peak_mb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "print(json.dumps(document))\n"
    )
    command = [sys.executable, "-c", code, str(source), str(out), str(limit_mb), memory_limit]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Generate the log, import it, print one line per run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, help="default: one per 50 rows")
    parser.add_argument("--items", type=int, help="default: one per 500 rows")
    parser.add_argument("--kind", choices=["parquet", "csv"], default="parquet")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-mb", type=int, default=0, help="limit of private memory; 0 is none")
    parser.add_argument("--memory-limit", default="1GB", help="of DuckDB inside the import")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    users = arguments.users or max(arguments.rows // 50, 1)
    items = arguments.items or max(arguments.rows // 500, 1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = Path(folder) / f"log.{arguments.kind}"
        write_log(source, arguments.rows, users, items, arguments.seed)
        print(f"{'rows':>12} {'file MB':>8} {'seconds':>8} {'peak MB':>8}", flush=True)
        for _ in range(arguments.repeat):
            found = run_import(source, Path(folder) / "dataset", arguments.limit_mb, arguments.memory_limit)
            megabytes = source.stat().st_size >> 20
            print(
                f"{found['events']:>12,} {megabytes:>8} {found['seconds']:>8} {found['peak_mb']:>8}",
                flush=True,
            )


if __name__ == "__main__":
    main()
