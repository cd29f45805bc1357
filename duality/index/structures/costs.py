"""What the ways to answer a filtered search cost, in nanoseconds of one core.

Measured with faiss-cpu 1.15 (AVX-512) on 200,000 x 64 and 1,000,000 x 64; only ratios matter, and
those moved by less than a half between machines with and without AVX-512.
"""

from __future__ import annotations

# Copying a row out of the matrix: a cache miss and its bytes.
GATHER_ROW, GATHER_VALUE = 15.0, 0.2
# Scoring a row for one query and offering it to the best k.
SCORE_ROW, SCORE_VALUE = 1.5, 0.075
# The same in a matrix product, which is made from so many queries on (selecting.py, and FAISS).
PRODUCT, PRODUCT_QUERIES = 0.55, 8
# Asking the bitmap whether a row matches; branches that nobody can foresee cost most at one in two.
MASK_ROW, BRANCH = 1.8, 32.0
# Ordering the lists for a query.
SORT_LIST = 20.0
# What a search of lists takes before it reads a row, over what a scan takes.
LISTS_CALL = 60_000.0
# Following a link of a graph, and how many of a candidate's links lead to vectors not yet met.
LINK, NEW_LINKS = 10.0, 0.5


def gather(rows: float, dim: int) -> float:
    """Copying `rows` out."""
    return rows * (GATHER_ROW + GATHER_VALUE * dim)


def score(rows: float, dim: int) -> float:
    """Scoring `rows` for one query."""
    return rows * (SCORE_ROW + SCORE_VALUE * dim)


def scan(rows: float, dim: int, queries: int) -> float:
    """Scoring `rows` for each of some queries: a matrix product, where FAISS makes one, is cheaper."""
    return score(rows, dim) * (PRODUCT if queries >= PRODUCT_QUERIES else 1.0)


def listed(rows: float, share: float, row_cost: float) -> float:
    """Going through `rows`, of which a share match and cost `row_cost` each, for one query."""
    return rows * (MASK_ROW + BRANCH * share * (1 - share) + share * row_cost)


def rank(lists: float) -> float:
    """Sorting lists for one query."""
    return lists * SORT_LIST


def gathering_pays(uses: int, matches: int, size: int, dim: int) -> bool:
    """Whether copying matches out for `uses` queries beats skipping over the others, query by query."""
    skipping = listed(size, matches / max(size, 1), score(1, dim))
    return gather(matches, dim) + uses * score(matches, dim) <= uses * skipping


def graph(ef: int, m: int, dim: int) -> float:
    """Searching a graph for one query: every candidate's links are looked at, half of them new."""
    return ef * m * (LINK + gather(1, dim) + score(1, dim)) * NEW_LINKS
