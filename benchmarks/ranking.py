"""Full ranking beside the bare matrix product with top-k, and beside RecTools on the same scores.

    python benchmarks/ranking.py [--users 6040] [--items 3416] [--queries N] [--rectools PYTHON]

`--rectools` names a Python that has RecTools installed; it ranks the same vectors with its own ranker and
computes the same metrics (NDCG@10, Recall@10) from them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from duality import metrics
from duality.evaluation.queries import USER_TO_ITEM, Queries, World, make_queries
from duality.evaluation.ranking import rank_full
from duality.runtime import brief_spins

DIM, K, BLOCK = 66, 20, 256

RECTOOLS = """
import json, sys, time
import numpy as np, pandas as pd
from scipy import sparse
from rectools import Columns
from rectools.metrics import MAP, NDCG, Recall, calc_metrics
from rectools.models.rank import Distance, ImplicitRanker
folder, threads = sys.argv[1], int(sys.argv[2])
load = lambda name: np.load(f"{folder}/{name}.npy")
users, items, truth = load("users"), load("items"), load("truth")
seen = sparse.csr_matrix((np.ones(len(load("columns"))), load("columns"), load("indptr")), shape=(len(users), len(items)))
test = pd.DataFrame({Columns.User: np.arange(len(users)), Columns.Item: truth})
def ours():
    start = time.perf_counter()
    ranker = ImplicitRanker(Distance.DOT, users, items, num_threads=threads)
    user, item, score = ranker.rank(np.arange(len(users)), k=10, filter_pairs_csr=seen)
    middle = time.perf_counter()
    user = np.asarray(user)
    first = np.r_[True, user[1:] != user[:-1]]
    rank = np.arange(len(user)) - np.flatnonzero(first)[np.cumsum(first) - 1] + 1
    reco = pd.DataFrame({Columns.User: user, Columns.Item: item, Columns.Score: score, Columns.Rank: rank})
    found = calc_metrics({"ndcg": NDCG(k=10), "recall": Recall(k=10)}, reco, test)
    return middle - start, time.perf_counter() - start, found
ours()
runs = [ours() for _ in range(3)]
best = min(runs, key=lambda run: run[1])
print(json.dumps({"rank s": best[0], "all s": best[1], "recall@10": best[2]["recall"], "ndcg@10": best[2]["ndcg"]}))
"""


class Vectors:
    """Inner products of stored vectors."""

    name = "vectors"

    def __init__(self, users: np.ndarray, items: np.ndarray) -> None:
        self.users, self.items = users, items

    def score(self, queries: Queries, rows: slice, direction: str) -> np.ndarray:
        return self.users[queries.user[rows]] @ self.items.T


def world_of(users: int, items: int, seen_each: int, asked: int) -> tuple[World, Queries]:
    """Every user has met `seen_each` items and hides one; `asked` of them are queries."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users, dtype=np.int32), seen_each + 1)
    item = (rng.integers(0, items, (users, 1)) + 7 * np.arange(seen_each + 1)) % items
    hidden = np.arange(seen_each, len(user), seen_each + 1)
    visible = np.ones(len(user), dtype=bool)
    visible[hidden] = False
    world = World(users, items, visible, visible, user, item.astype(np.int32).ravel())
    return world, make_queries(world, hidden[:asked], USER_TO_ITEM)


def bare(users: np.ndarray, items: np.ndarray, block: int) -> None:
    """The product and the top k of each row, without excluding anything."""
    import faiss

    for start in range(0, len(users), block):
        scores = users[start : start + block] @ items.T
        heap = faiss.float_minheap_array_t()
        values = np.empty((len(scores), K), np.float32)
        rows = np.empty((len(scores), K), np.int64)
        heap.nh, heap.k = len(scores), K
        heap.val, heap.ids = faiss.swig_ptr(values), faiss.swig_ptr(rows)
        heap.heapify()
        heap.addn(scores.shape[1], faiss.swig_ptr(scores))
        heap.reorder()


def product(users: np.ndarray, items: np.ndarray, block: int) -> None:
    """The product alone."""
    for start in range(0, len(users), block):
        users[start : start + block] @ items.T


def best_of(call: object, repeat: int) -> float:
    assert callable(call)
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def rectools(python: str, users: np.ndarray, items: np.ndarray, world: World, queries: Queries) -> dict:
    from duality.evaluation.queries import seen_csr

    seen = seen_csr(world, USER_TO_ITEM)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {
            "users": users[queries.user], "items": items, "truth": queries.item,
            "columns": seen.indices, "indptr": seen.indptr,
        }  # fmt: skip
        for name, array in arrays.items():
            np.save(f"{folder}/{name}.npy", array)
        command = [python, "-c", RECTOOLS, folder, "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=6_040)
    parser.add_argument("--items", type=int, default=3_416)
    parser.add_argument("--seen", type=int, default=160)
    parser.add_argument("--queries", type=int, help="Users that are asked [all].")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rectools")
    asked = parser.parse_args()
    rng = np.random.default_rng(1)
    users, items = (rng.standard_normal((n, DIM), np.float32) for n in (asked.users, asked.items))
    world, queries = world_of(asked.users, asked.items, asked.seen, asked.queries or asked.users)
    scorer, found = Vectors(users, items), []

    def ranked() -> None:
        ranks, candidates = rank_full(scorer, queries, world, USER_TO_ITEM)
        found[:] = [metrics.per_query(name, ranks, candidates).mean() for name in ("ndcg@10", "recall@10")]

    block = max(1, min(BLOCK, max(64, 2_500_000 // asked.items)))
    ours = best_of(ranked, asked.repeat)
    some = users[queries.user]
    top, alone = (best_of(lambda f=f: f(some, items, block), asked.repeat) for f in (bare, product))
    print(f"{len(queries):,} of {asked.users:,} users x {asked.items:,} items x {DIM}, blocks of {block}")
    print(f"full ranking {ours:.3f} s; product + top-{K} {top:.3f} s (ratio {ours / top:.2f}); "
          f"product alone {alone:.3f} s (ratio {ours / alone:.2f})")  # fmt: skip
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    if asked.rectools:
        theirs = rectools(asked.rectools, users, items, world, queries)
        print(f"RecTools: ranking {theirs['rank s']:.3f} s, with NDCG@10 and Recall@10 {theirs['all s']:.3f} s "
              f"({theirs['all s'] / ours:.1f} times ours)")  # fmt: skip
        print(f"ndcg@10 {found[0]:.6f} ours, {theirs['ndcg@10']:.6f} theirs; "
              f"recall@10 {found[1]:.6f} ours, {theirs['recall@10']:.6f} theirs")  # fmt: skip


if __name__ == "__main__":
    brief_spins()
    main()
