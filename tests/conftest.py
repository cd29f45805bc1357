"""A dataset, a model and an index, made once for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_worlds import SMALL, synthetic_items, synthetic_log

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores take a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The commands of the pages take longest and run one after another: started last, they alone would be waited for."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


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
