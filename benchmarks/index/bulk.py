"""Table `bulk`: building from a Parquet file in a fresh process, seconds and peak memory."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from index.measuring import Row, in_child, peak_mb, size_mb, workplace

_PART = 500_000


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per kind."""
    kinds = asked.kinds.split(",") if asked.kinds else ["exact", "ivf"]
    rows: list[Row] = []
    with workplace("bulk") as folder:
        _write(folder / "items.parquet", asked.rows, asked.dim)
        _write(folder / "users.parquet", 16, asked.dim)
        for kind in kinds:
            with workplace("built") as place:
                arguments = {"folder": str(folder), "out": str(place / "index"), "kind": kind}
                done = in_child("bulk:build_index", arguments)
                rows.append({"kind": kind, **done, "MB on disk": size_mb(place / "index")})
            rows[-1]["MB of vectors"] = asked.rows * asked.dim * 4 / 2**20
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def build_index(folder: str, out: str, kind: str) -> Row:
    """In a child: seconds, rows per second and the largest resident set, mapped files included."""
    from duality.index.pair import build

    started = time.perf_counter()
    found = build(out, Path(folder) / "users.parquet", Path(folder) / "items.parquet", spec=kind)
    taken = time.perf_counter() - started
    return {"seconds": taken, "rows/s": found["items"] / taken, "peak MB": peak_mb()}


def _write(path: Path, rows: int, dim: int) -> None:
    """Parquet in the embed format, part by part."""
    import pyarrow as pa
    from pyarrow import parquet

    from index.worlds import Source

    source, writer = Source("clustered", dim), None
    for start in range(0, rows, _PART):
        vectors = source.items(min(_PART, rows - start), start)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
        ids = [f"i{row:09d}" for row in range(start, start + len(vectors))]
        table = pa.table({"id": ids, "vector": lists})
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
