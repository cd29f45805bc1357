"""Table `open`: from nothing to the first answer in a fresh process, beside what FAISS needs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from index.measuring import Row, in_child, peak_mb, workplace


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per kind; medians of five processes that take turns with FAISS's."""
    from index.worlds import world

    kinds = asked.kinds.split(",") if asked.kinds else ["exact", "ivf"]
    data = world("clustered", asked.rows, asked.dim)
    rows = []
    for kind in kinds:
        with workplace("open") as folder:
            rows.append(_kind(folder, data, kind))
            if kind == "hnsw":
                rows[-1] |= _peers(folder, asked)
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def first_answer(folder: str, query: str) -> dict[str, float]:
    """In a child: seconds from before and from after the imports to one answer of our index."""
    before = time.perf_counter()
    import numpy as np

    from duality.index.pair import Pair
    from duality.index.searching import search_blocks  # noqa: F401

    after = time.perf_counter()
    with Pair.open(folder) as pair:
        pair.items.search(np.load(query), 10)
        done = time.perf_counter()
        pair.items.search(np.load(query), 10)
        again = time.perf_counter() - done
    return {"all": done - before, "open": done - after, "again": again, "mb": peak_mb()}


def first_answer_of_faiss(file: str, query: str) -> dict[str, float]:
    """In a child: the same of a FAISS file."""
    before = time.perf_counter()
    import faiss
    import numpy as np

    after = time.perf_counter()
    index = faiss.read_index(file)
    index.search(np.load(query), 10)
    done = time.perf_counter()
    return {"all": done - before, "open": done - after, "mb": peak_mb()}


def _kind(folder: Path, data: Any, kind: str) -> Row:
    import faiss
    import numpy as np

    from index.bare import Bare
    from index.searching import bare_options, chosen_spec
    from index.worlds import K, built

    spec = chosen_spec(kind, len(data.items))
    index = built(folder / "index", data, spec)
    bare = Bare(kind, bare_options(spec, data.items.shape[1]), data.items)
    bare.search(data.queries[:1], K)
    faiss.write_index(bare.index, str(folder / "bare.faiss"))
    del bare
    np.save(folder / "query.npy", data.queries[:1])
    query = str(folder / "query.npy")
    ours, theirs = [], []
    for _ in range(5):
        ours.append(in_child("opening:first_answer", {"folder": str(index), "query": query}))
        theirs.append(
            in_child("opening:first_answer_of_faiss", {"file": str(folder / "bare.faiss"), "query": query})
        )
    return {
        "kind": kind,
        "open to first answer, s": _median(ours, "open"),
        "with imports, s": _median(ours, "all"),
        "peak MB": int(_median(ours, "mb")),
        "second answer, s": _median(ours, "again"),
        "FAISS read_index, s": _median(theirs, "open"),
        "its imports too, s": _median(theirs, "all"),
        "its peak MB": int(_median(theirs, "mb")),
    }


def _peers(folder: Path, asked: argparse.Namespace) -> Row:
    """hnswlib and usearch loading their file; the import of the engine is part of it."""
    from index.peers import ENGINES, python_of

    found: Row = {}
    for name in ("hnswlib", "usearch"):
        place = folder / name
        place.mkdir()
        python = python_of(ENGINES[name])
        common = {
            "folder": str(place),
            "driver": ENGINES[name].driver,
            "dim": asked.dim,
            "threads": asked.threads,
        }
        in_child("peer_run:build_in", {**common, "data": "clustered", "rows": asked.rows}, python=python)
        query = {"query": str(folder / "query.npy")}
        runs = [in_child("peer_run:first_answer", {**common, **query}, python=python) for _ in range(5)]
        found[f"{name}, s"] = _median(runs, "open")
    return found


def _median(found: list[dict[str, float]], name: str) -> float:
    import numpy as np

    return float(np.median([run[name] for run in found]))
