"""`duality recommend`: the answers of a whole side, streamed to Parquet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from duality.artifacts import atomic_file
from duality.errors import DataError, InputError
from duality.index.side import Side
from duality.retrieval.retrieve import retrieve, retrieve_sample
from duality.retrieval.seen import seen_items, seen_users
from duality.runtime import progress
from duality.workflows.index import Index

BLOCK = 1024  # queries answered at once
SCHEMA = pa.schema(
    [("query", pa.string()), ("rank", pa.int32()), ("id", pa.string()), ("score", pa.float32())]
)
SAMPLED = ("draw_probability", "inclusion_probability")


@dataclass(frozen=True, eq=False)
class Wanted:
    """What each query gets: the options of `recommend`."""

    k: int
    where: str | None
    temperature: float | None
    seed: int
    probabilities: bool

    @property
    def schema(self) -> pa.Schema:
        names = [
            *(SAMPLED if self.temperature is not None else ()),
            *(["probability"] if self.probabilities else []),
        ]
        return pa.schema([*SCHEMA, *((name, pa.float64()) for name in names)])


def recommend(
    index: Index,
    side: str,
    who: str,
    out: Path,
    *,
    k: int = 10,
    where: str | None = None,
    temperature: float | None = None,
    seed: int = 0,
    probabilities: bool = False,
) -> dict[str, Any]:
    """Answer every query of one side and write `query`, `rank` (from 1), `id`, `score`.

    Args:
        side: "users" asks items for users, "items" asks users for items.
        who: "all", or a file of ids (Parquet or CSV with a column `id`, or one id per line).
        out: the Parquet file, written atomically.
        temperature, seed: draw instead of ranking; adds `draw_probability` and
            `inclusion_probability`. A query draws the same whoever else is asked for.
        probabilities: adds `probability`, by the model's score calibration.

    Returns:
        `queries`, `rows`, `seconds`.
    """
    if out.suffix != ".parquet":
        raise InputError(f"{out}: the answer is a Parquet file: end its name in .parquet")
    asked = index.users if side == "users" else index.items
    ids = asked.matching()[0] if who == "all" else read_ids(Path(who))
    wanted = Wanted(k, where, temperature, seed, probabilities)
    started, rows = time.monotonic(), 0
    with (
        atomic_file(out) as temporary,
        pq.ParquetWriter(temporary, wanted.schema, compression="zstd") as writer,
        progress(len(ids), f"recommending for {side}", unit=side) as bar,
    ):
        for block in _blocks(ids):
            table = _answers(index, side, block, wanted)
            writer.write_table(table)
            rows += len(table)
            bar.advance(len(block))
    return {"queries": len(ids), "rows": rows, "seconds": round(time.monotonic() - started, 3)}


def read_ids(path: Path) -> list[str]:
    """Ids from a Parquet or CSV file with a column `id`, or a text file with one id per line.

    Raises:
        DataError: no such file, not readable, or no column `id`.
    """
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        elif path.suffix == ".csv":
            table = pacsv.read_csv(
                path, convert_options=pacsv.ConvertOptions(column_types={"id": pa.string()})
            )
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
    except FileNotFoundError:
        raise DataError("no such file", file=str(path)) from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=str(path)) from None
    if "id" not in table.column_names:
        raise DataError(f"no column 'id' among {', '.join(table.column_names)}", file=str(path))
    return table.column("id").cast(pa.string()).to_pylist()


def _blocks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), BLOCK):
        yield ids[start : start + BLOCK]


def _answers(
    index: Index,
    side: str,
    ids: Sequence[str],
    wanted: Wanted,
) -> pa.Table:
    asked, answering = (index.users, index.items) if side == "users" else (index.items, index.users)
    exclude, dataset = None, index.dataset
    if dataset is not None:
        look_up = seen_items if side == "users" else seen_users
        exclude = [look_up(dataset, identifier) for identifier in ids]
    found, scores, extra = _found(answering, asked.vectors(ids), ids, exclude, wanted)
    kept = np.isfinite(scores)  # rows are padded with -inf where nothing is left
    if wanted.probabilities:
        extra.append(_probabilities(index, side, ids, found, scores))
    query = np.repeat(np.array(ids, dtype=object), kept.sum(1))
    rank = np.broadcast_to(np.arange(1, found.shape[1] + 1, dtype=np.int32), found.shape)[kept]
    return pa.Table.from_arrays(
        [
            pa.array(query, pa.string()),
            pa.array(rank),
            pa.array(found[kept], pa.string()),
            pa.array(scores[kept]),
            *(pa.array(values[kept], pa.float64()) for values in extra),
        ],
        schema=wanted.schema,
    )


def _found(
    side: Side, vectors: np.ndarray, ids: Sequence[str], exclude: list[list[str]] | None, wanted: Wanted
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Ids and scores [Q, k], and the further columns [Q, k] in the order of the schema."""
    extra: list[np.ndarray] = []
    if wanted.temperature is None:
        found, scores = retrieve(side, vectors, wanted.k, where=wanted.where, exclude=exclude)
    else:
        drawn = retrieve_sample(
            side,
            vectors,
            wanted.k,
            temperature=wanted.temperature,
            where=wanted.where,
            exclude=exclude,
            seed=wanted.seed,
            keys=ids,
        )
        found, scores = drawn.ids, drawn.scores
        extra = [drawn.draw_probability, drawn.inclusion_probability]
    return found, scores, extra


def _probabilities(
    index: Index, side: str, ids: Sequence[str], found: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Calibrated probabilities, float64 [Q, k]; of padding, whatever."""
    calibrated = index.calibration
    if not calibrated.uses_history:
        return calibrated(scores)
    if side == "users":
        return calibrated(scores, index.known_events(ids)[:, None])
    users = ["" if user is None else user for user in found.ravel()]
    return calibrated(scores, index.known_events(users).reshape(found.shape))
