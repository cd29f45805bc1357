"""Index folders built once per kind; tests that write copy them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from index_data import clustered, table

from duality.index.pair import build

ROWS = 1_500


@pytest.fixture(scope="session", params=["exact", "ivf", "hnsw"])
def built(request, tmp_path_factory):
    """(folder, kind): 1,500 items with attributes, 100 users."""
    folder = tmp_path_factory.mktemp("index") / request.param
    items = table(
        clustered(ROWS),
        year=[1900 + row % 100 for row in range(ROWS)],
        genre=["comedy" if row % 3 else None for row in range(ROWS)],
        tags=[[f"t{row % 7}", "all"] for row in range(ROWS)],
        rare=[row % 50 == 0 for row in range(ROWS)],
    )
    build(folder, table(clustered(100, seed=1), "u"), items, spec=request.param)
    return folder, request.param


@pytest.fixture
def copied(built, tmp_path):
    """A copy of `built` that the test may change."""
    return Path(shutil.copytree(built[0], tmp_path / "index")), built[1]
