"""Indexes in files and on a server, for the contract that both must keep; processes that fail on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contract_agents import Agent
from store_server import GIVEN, own_server
from store_worlds import DIM, FACTS, USERS, Backend, table, vectors_like_a_model

from duality.index.pair import Pair, build


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """The server that all tests of this session share."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed")
    if GIVEN:
        yield GIVEN
        return
    with own_server() as server:
        yield server.url


@pytest.fixture(scope="session", params=["local", "store"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "local":
        return Backend("local", build, Pair.open)
    from duality.index.remote.pair import RemotePair

    url = request.getfixturevalue("store_url")

    def remote(folder: Path, users: pa.Table, items: pa.Table, **more: Any) -> dict[str, Any]:
        return RemotePair.build(folder, url, users, items, **more)

    return Backend("store", remote, RemotePair.open)


@pytest.fixture(scope="session")
def catalogue(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items with attributes of every kind; tests only read it."""
    folder = tmp_path_factory.mktemp("catalogue") / backend.name
    backend.build(folder, USERS, table(vectors_like_a_model(60), **FACTS))
    return folder


@pytest.fixture
def folder(backend: Backend, tmp_path: Path) -> Path:
    """An index of its own: 20 users, 200 items."""
    years = [1900 + row for row in range(200)]
    answer = backend.build(tmp_path / "index", USERS, table(vectors_like_a_model(200), year=years))
    assert answer == {"users": 20, "items": 200, "dim": DIM, "kind": "exact", "version": 1}
    return tmp_path / "index"


@pytest.fixture
def index(backend: Backend, folder: Path) -> Iterator[Any]:
    """`folder`, open for writing."""
    with backend.open(folder, "w") as pair:
        yield pair


@pytest.fixture
def stored_folder(store_url: str, tmp_path: Path) -> Path:
    """An index of its own: 20 users, 200 items with a year."""
    from duality.index.remote.pair import RemotePair

    years = [1900 + row for row in range(200)]
    RemotePair.build(tmp_path / "index", store_url, USERS, table(vectors_like_a_model(200), year=years))
    return tmp_path / "index"


@pytest.fixture
def stored(stored_folder: Path) -> Iterator[Any]:
    """`stored_folder`, open for writing."""
    from duality.index.remote.pair import RemotePair

    with RemotePair.open(stored_folder, "w") as pair:
        yield pair


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled fault.c."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler (cc) for the disk that fails on demand")
    library = tmp_path_factory.mktemp("fault") / "fault.so"
    source = Path(__file__).parent / "fault.c"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True
    )
    return library


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for many short-lived copies: in memory where there is room, since syncs cost nothing there."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else tmp_path, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def failing(fault_library: Path, scratch: Path) -> Iterator[Agent]:
    """An agent on whose disk below `scratch` jobs can make calls fail."""
    agent = Agent(fault_library, scratch)
    yield agent
    agent.close()


@pytest.fixture(scope="session")
def agent() -> Iterator[Agent]:
    """An agent for jobs that may crash or hang."""
    agent = Agent()
    yield agent
    agent.close()


@pytest.fixture
def started() -> Iterator[Callable[[], Agent]]:
    """Starts further agents; all of them end with the test."""
    agents: list[Agent] = []

    def start() -> Agent:
        agents.append(Agent())
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()
