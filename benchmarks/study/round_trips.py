"""Round trips item → users → item and user → items → user, and how far they lead away.

Shapes: N starting points, M companions of a turn, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from duality.data.dataset import Dataset
from duality.data.histories import user_histories
from duality.data.splits import split_named
from duality.embeddings import item_vectors, user_states
from duality.encoders.base import Layout
from duality.model.folder import ModelFolder
from duality.runtime import num_threads

COMPANIONS = 20  # users an item is remade from, items a user is
STARTS = 1_000
LEAST = 5  # events a starting point has at least
MEASURES = ("first", "rank", "cosine")
Row = dict[str, Any]


def measure_all(
    data: Path, folder: Path, names: Sequence[str], seeds: Sequence[int], turns: int
) -> list[Row]:
    """A row per model, trip and turn, the means over seeds of `first`, `rank` and `cosine`."""
    torch.set_num_threads(num_threads())
    dataset = Dataset.open(data)
    rows = []
    for name in names:
        paths = [folder / "models" / f"{name}-{seed}" for seed in seeds]
        found = [_trips(dataset, path, turns) for path in paths if (path / "config.json").exists()]
        for trip in found[0] if found else ():
            table = np.mean([trips[trip] for trips in found], axis=0)
            rows += [
                {"model": name, "seeds": len(found), "trip": trip, "turn": turn, **dict(zip(MEASURES, line))}
                for turn, line in enumerate(table.tolist())
            ]
    return rows


@torch.inference_mode()
def _trips(dataset: Dataset, path: Path, turns: int) -> dict[str, np.ndarray]:
    """float64 [turns + 1, measures] per trip."""
    model = ModelFolder.open(path).load()
    visible = split_named(dataset, "leave-one-out").train
    items = item_vectors(model, dataset, visible)
    users = user_states(model, dataset, user_histories(dataset, visible), items)
    per_item = np.bincount(dataset.event_item[visible], minlength=dataset.num_items)
    per_user = np.bincount(dataset.event_user[visible], minlength=dataset.num_users)
    partition = model.log_partition(users)

    def audience(vectors: Tensor) -> Tensor:
        return _made(model.item_states, users, vectors @ users.T - partition)[:, : model.dim]

    def taste(states: Tensor) -> Tensor:
        return _made(model.user_states, items, states @ items.T)

    return {
        "item → users → item": _walk(
            items, _starts(per_item), audience, items[_kept(per_item)], turns, per_item
        ),
        "user → items → user": _walk(
            users, _starts(per_user), taste, users[_kept(per_user)], turns, per_user
        ),
    }


def _kept(events: np.ndarray) -> Tensor:
    return torch.from_numpy(np.flatnonzero(events))


def _starts(events: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(events >= LEAST)
    return np.sort(np.random.default_rng(0).permutation(rows)[:STARTS])


def _made(encode: Callable[[Tensor, Layout], Tensor], others: Tensor, scores: Tensor) -> Tensor:
    """Vectors made of the best companions, the best of them last: float32 [N, ...]."""
    most = min(COMPANIONS, scores.shape[1])
    best = scores.topk(most, dim=1).indices.flip(1)
    layout = Layout(np.full(len(best), most))
    return encode(others[best.reshape(-1)], layout)[torch.from_numpy(layout.last_rows)]


def _walk(
    vectors: Tensor,
    starts: np.ndarray,
    turn: Callable[[Tensor], Tensor],
    everyone: Tensor,
    turns: int,
    events: np.ndarray,
) -> np.ndarray:
    """After 0, 1, ... turns: share whose original is the nearest of `everyone`, median rank, mean cosine.

    Centred, or the direction that all share would make everything near.
    """
    centre = everyone.mean(0)
    pool = functional.normalize(everyone - centre, dim=1)
    originals = vectors[torch.from_numpy(starts)]
    own = torch.from_numpy((np.cumsum(events > 0) - 1)[starts])
    found, now = [], originals
    for _ in range(turns + 1):
        cosines = functional.normalize(now - centre, dim=1) @ pool.T
        mine = cosines.gather(1, own[:, None])
        rank = 1 + (cosines > mine + 1e-6).sum(1).double()
        found.append([(rank == 1).double().mean(), rank.median(), mine.double().mean()])
        now = turn(now)
    return np.array(found, dtype=np.float64)


def print_table(rows: Sequence[Row]) -> None:
    """Turns 0, 1, 2, 5 and the last of every model and trip."""
    last = max(row["turn"] for row in rows)
    print("| trip | model | turn | original is nearest | median rank | cosine |\n|---|---|---|---|---|---|")
    for row in rows:
        if row["turn"] in (1, 2, 5, last):
            print(
                f"| {row['trip']} | {row['model']} | {row['turn']} | {row['first']:.3f} | {row['rank']:.0f} "
                f"| {row['cosine']:.3f} |"
            )


def draw(rows: Sequence[Row], out: Path) -> None:
    """Cosine with the original by number of turns, a panel per trip, as SVG."""
    from duality.workflows.report_drawing import CONFIG, SCHEMA, quantity, styles, svg

    order, colours, dashes = styles(list(dict.fromkeys(row["model"] for row in rows)))
    model = {"field": "model", "type": "nominal", "sort": order, "title": None}
    figure = {
        "$schema": SCHEMA,
        "config": CONFIG,
        "data": {"values": list(rows)},
        "facet": {"column": {"field": "trip", "type": "nominal", "title": None}},
        "spec": {
            "width": 300,
            "height": 220,
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": quantity("turn", "turns"),
                "y": quantity("cosine", "cosine with the original"),
                "color": {**model, "scale": colours},
                "strokeDash": {**model, "scale": dashes},
            },
        },
    }
    out.write_text(svg(figure), encoding="utf-8")
