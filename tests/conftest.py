"""Small synthetic worlds shared by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def synthetic_log(users: int = 60, items: int = 60, seed: int = 0, groups: int = 4) -> pa.Table:
    """A log in which users of a group mostly meet items of that group; user n also meets item n."""
    rng = np.random.default_rng(seed)
    user, item = [], []
    for number in range(users):
        weights = np.where(np.arange(items) % groups == number % groups, 8.0, 1.0) / (
            1 + np.arange(items) / 10
        )
        count = int(rng.integers(4, 16))
        weights[number % items] = 0
        user += [number] * (count + 1)
        item += [number % items]
        item += rng.choice(items, size=count, replace=False, p=weights / weights.sum()).tolist()
    time = 1_700_000_000 + rng.permutation(len(user)) * 60
    return pa.table(
        {"user_id": [f"u{n}" for n in user], "item_id": [f"i{n}" for n in item], "timestamp": time}
    )


def synthetic_items(items: int = 60, groups: int = 4) -> pa.Table:
    return pa.table(
        {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [f"Item {n}" for n in range(items)],
            "year": [1980 + n for n in range(items)],
            "genres": [[f"G{n % groups}"] for n in range(items)],
        }
    )


@pytest.fixture(scope="session")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source folder: interactions.parquet and items.parquet."""
    folder = tmp_path_factory.mktemp("log")
    pq.write_table(synthetic_log(), folder / "interactions.parquet")
    pq.write_table(synthetic_items(), folder / "items.parquet")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, log_folder: Path) -> Path:
    """A folder with a dataset, a trained model and an index under the default names."""
    from duality.data.importing import import_events
    from duality.workflows.build import build_index
    from duality.workflows.recipe import load_recipe
    from duality.workflows.train import train

    root = tmp_path_factory.mktemp("world")
    import_events(log_folder, root / "datasets/default")
    recipe = load_recipe(None, SMALL)
    train(root / "datasets/default", root / "models/default", recipe)
    build_index(root / "models/default", root / "indexes/default", "exact", None)
    return root


SMALL = [
    "model.dim=16",
    "model.user_encoder.hidden=16",
    "model.item_encoder.hidden=16",
    "train.epochs=12",
    "train.learning_rate=0.01",
    "train.rows=200",
    "train.warmup_steps=2",
]
