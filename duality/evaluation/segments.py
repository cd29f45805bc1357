"""For whom it works: the metrics of one evaluation by segment of its queries.

Reads:  ranks that were already measured; nothing is scored again.
Trades: a segment of few sources has a wide interval, and many segments together will show some
        difference by chance: look for trends over a segmentation, not for its best row.

Shapes: Q queries, E events, S segments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from duality import metrics
from duality.evaluation.intervals import Intervals, cluster_bootstrap
from duality.evaluation.protocol import Measured
from duality.evaluation.queries import USER_TO_ITEM, Queries, World

METRICS = ("ndcg@10", "recall@100")
PARTS = 5
MOST_VALUES = 10  # of a column that divides queries


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One way to divide the queries: each is in exactly one segment.

    Args:
        name: "history", "popularity", "time", or "event-N-COLUMN" in letters that a file may have.
        title: of what it divides by.
        words: what a label counts.
        labels: S labels, in rising order, none without a query.
        place: int64 [Q], the segment of each query.
    """

    name: str
    title: str
    words: str
    labels: Sequence[str]
    place: np.ndarray


def segmentations(queries: Queries, world: World, direction: str) -> list[Segmentation]:
    """The divisions there are: by history of the source, by events of the target, and by time.

    Args:
        queries: Q >= 1.
        world: what may be known.
        direction: of the queries.
    """
    source, target = ("user", "item") if direction == USER_TO_ITEM else ("item", "user")
    found = [
        _counted(
            "history",
            "length of history",
            f"visible events of the {source} that asks, before the query",
            known_events(queries, world, direction),
        ),
        _counted(
            "popularity",
            "popularity of the target",
            f"training events of the {target} to be found",
            training_events(queries, world, direction),
        ),
    ]
    return found if queries.time is None else [*found, _timed(queries.time)]


def by_columns(table: pa.Table, queries: Queries) -> list[Segmentation]:
    """The divisions by what the event that is to be found says of itself: columns of few values.

    Args:
        table: [E] the log's other columns, in event order.
    """
    asked, found = table.take(pa.array(queries.event)), []
    for number, name in enumerate(table.column_names):
        column = asked[name].combine_chunks()
        if pa.types.is_nested(column.type):
            continue
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        coded = column.dictionary_encode("encode")
        if not 1 < len(coded.dictionary) <= MOST_VALUES:
            continue
        order = pc.sort_indices(coded.dictionary)
        labels = [
            "not known" if value is None else str(value) for value in coded.dictionary.take(order).to_pylist()
        ]
        place = np.argsort(order.to_numpy())[coded.indices.to_numpy()]
        plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        words = f"{name} of the event to be found"
        found.append(Segmentation(f"event-{number}-{plain}", name, words, labels, place))
    return found


def known_events(queries: Queries, world: World, direction: str) -> np.ndarray:
    """Visible events of each query's source, before the query: int64 [Q].

    For a user, those that precede the hidden event in the user's own order. For an item, those
    strictly before the query's time; all of them where the log has no time.
    """
    source = world.event_ends(direction)[0]
    if direction == USER_TO_ITEM or queries.time is None or world.event_time is None:
        moment = np.arange(len(source))
        asked = queries.event if direction == USER_TO_ITEM else np.full(len(queries), len(source))
    else:
        moment, asked = world.event_time, queries.time
    moments, place = np.unique(moment[world.visible], return_inverse=True)
    width = len(moments) + 1
    keys = np.sort(source[world.visible].astype(np.int64) * width + place)
    own = queries.sources(direction).astype(np.int64) * width
    until = np.searchsorted(keys, own + np.searchsorted(moments, asked, side="left"), side="left")
    return until - np.searchsorted(keys, own, side="left")


def training_events(queries: Queries, world: World, direction: str) -> np.ndarray:
    """Training events of each query's target: int64 [Q]."""
    target = world.event_ends(direction)[1][world.train]
    return np.bincount(target, minlength=world.num_targets(direction))[queries.targets(direction)]


def parts_of(values: np.ndarray, parts: int = PARTS) -> np.ndarray:
    """Segment of each value, int64 [Q]: about equally many each, equal values together, zero alone."""
    positive = values[values > 0]
    edges = np.quantile(positive, np.arange(1, parts) / parts, method="lower") if len(positive) else []
    edges = np.unique(np.concatenate(([0], edges)))
    return np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1]


def _counted(name: str, title: str, words: str, counts: np.ndarray) -> Segmentation:
    place = parts_of(counts)
    ends = [(counts[place == part].min(), counts[place == part].max()) for part in range(place.max() + 1)]
    labels = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in ends]
    return Segmentation(name, title, words, labels, place)


def _timed(times: np.ndarray) -> Segmentation:
    """Parts of equally many queries in order of time; days, or minutes where days do not tell parts apart."""
    place = parts_of(times - times.min() + 1)
    ends = [(times[place == part].min(), times[place == part].max()) for part in range(place.max() + 1)]
    labels = _spans(ends, "days")
    if len(set(labels)) < len(labels) or len(labels) == 1:
        labels = _spans(ends, "seconds")
    return Segmentation("time", "time", "moment of the query, UTC", labels, place)


def _spans(ends: Sequence[tuple[int, int]], unit: Literal["days", "seconds"]) -> list[str]:
    """Labels of [first, last] in microseconds since 1970."""
    length = 10 if unit == "days" else 19
    moments = [tuple(str(datetime.fromtimestamp(end / 1e6, UTC))[:length] for end in pair) for pair in ends]
    return [low if low == high else f"{low} to {high}" for low, high in moments]


def by_segment(
    measured: Measured,
    world: World,
    *,
    pool: int = 0,
    names: Sequence[str] = METRICS,
    against: str | None = None,
    more: Sequence[Segmentation] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Metrics of the first scorer in every segment of every segmentation.

    Args:
        measured: from `measure`.
        world: what was known.
        pool: of candidates, by number.
        names: metrics.
        against: another scorer of `measured`, to compare with on the same queries.
        more: segmentations beside `segmentations`.
        seed: of the bootstrap.

    Returns:
        Per segmentation {`name`, `title`, `words`, `rows`}; a row has `label`, `queries`, `sources` (clusters
        of the interval), `metrics` {name: {value, low, high}} and, with `against`, `differences`
        {name: {difference, low, high}}, first minus against. `low` and `high` are None when all
        queries of a segment share one source. The mean of `value` weighted by `queries` is the metric.
    """
    first = next(iter(measured.ranks))
    own = _values(measured, first, pool, names)
    other = None if against is None else _values(measured, against, pool, names)
    table = own if other is None else np.column_stack((own, own - other))
    found = []
    for division in (*segmentations(measured.queries, world, measured.direction), *more):
        rows = []
        for number, label in enumerate(division.labels):
            kept = division.place == number
            clusters = measured.clusters[kept]
            intervals = cluster_bootstrap(table[kept], clusters, seed=seed)
            rows.append(
                {"label": label, "queries": int(kept.sum()), "sources": len(np.unique(clusters))}
                | _row(intervals, names)
            )
        found.append({"name": division.name, "title": division.title, "words": division.words, "rows": rows})
    return found


def _values(measured: Measured, scorer: str, pool: int, names: Sequence[str]) -> np.ndarray:
    ranks, competing = measured.ranks[scorer][pool], measured.competing[pool]
    return np.stack([metrics.per_query(name, ranks, competing) for name in names], axis=1)


def _row(found: Intervals, names: Sequence[str]) -> dict[str, Any]:
    columns = [
        (float(value), *(float(end) if math.isfinite(end) else None for end in ends))
        for value, *ends in zip(found.value, found.low, found.high, strict=True)
    ]
    keys = ("value", "low", "high")
    row = {"metrics": {n: dict(zip(keys, c, strict=True)) for n, c in zip(names, columns, strict=False)}}
    rest, keys = columns[len(names) :], ("difference", "low", "high")
    if rest:
        row["differences"] = {n: dict(zip(keys, c, strict=True)) for n, c in zip(names, rest, strict=True)}
    return row
