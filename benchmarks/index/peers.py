"""Table `peers`: duality side by side with other engines, each in an environment of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from index.measuring import CHILD, Row, in_child, synced, workplace

CACHE = Path(tempfile.gettempdir()) / "duality-peers"
_CRASHES, _ACKNOWLEDGED = 3, 8


@dataclass(frozen=True)
class Engine:
    """An engine.

    Args:
        driver: "module:class" in drivers/.
        environment: folder in CACHE; "" for this interpreter's own.
        packages: what that environment needs; the first is the engine. FAISS is the yardstick.
        queries: how many are asked; few for engines that take long per query.
    """

    driver: str
    environment: str = ""
    packages: tuple[str, ...] = ()
    queries: int = 512


_LANCE = ("lancedb", "pyarrow", "faiss-cpu", "numpy")
_MILVUS = ("milvus-lite", "pymilvus", "setuptools", "faiss-cpu", "numpy")
ENGINES = {
    "duality ivf": Engine("ours:DualityIvf"),
    "duality hnsw": Engine("ours:DualityHnsw"),
    "duality sq8": Engine("ours:DualitySq8"),
    "duality exact": Engine("ours:DualityExact"),
    "hnswlib": Engine("graphs:Hnswlib", "hnswlib", ("hnswlib", "faiss-cpu", "numpy")),
    "usearch": Engine("graphs:Usearch", "usearch", ("usearch", "faiss-cpu", "numpy")),
    "Qdrant Edge": Engine("qdrant:QdrantEdge", "qdrant_edge", ("qdrant-edge-py", "faiss-cpu", "numpy")),
    "LanceDB IVF_FLAT": Engine("lance:LanceIvf", "lancedb", _LANCE, 256),
    "LanceDB IVF_HNSW_SQ": Engine("lance:LanceHnsw", "lancedb", _LANCE, 256),
    "milvus-lite HNSW": Engine("milvus:MilvusHnsw", "milvus_lite", _MILVUS, 256),
    "milvus-lite IVF_FLAT": Engine("milvus:MilvusIvf", "milvus_lite", _MILVUS, 256),
}


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per engine and data set; with --prepare, the versions installed."""
    names = asked.engines.split(",") if asked.engines else list(ENGINES)
    if asked.prepare:
        return [{"engine": name, "version": _prepare(ENGINES[name])} for name in names]
    rows: list[Row] = []
    for data in asked.data.split(","):
        for name in names:
            row = {"data": data, "engine": name, "version": _version(ENGINES[name])}
            try:
                rows.append({**row, **_row(ENGINES[name], data, asked)})
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                rows.append({**row, "setting": f"failed: {error}"})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _row(engine: Engine, data: str, asked: argparse.Namespace) -> Row:
    common = {"driver": engine.driver, "dim": asked.dim, "threads": asked.threads}
    more = {"data": data, "rows": asked.rows, "queries": engine.queries, "budget": asked.seconds / 4}
    python = python_of(engine)
    found = in_child("peer_run:measured", {**common, **more}, python=python)
    found["fsyncs per 10 batches"] = synced("peer_run:ten_batches", common, python)
    return {**found, "after kill -9": _survival(engine, common)}


def _survival(engine: Engine, common: Row) -> str:
    """What some kills leave of the acknowledged batches."""
    lost = partial = acknowledged = 0
    for _ in range(_CRASHES):
        with workplace("crash") as folder:
            batches = _write_and_kill(engine, {**common, "folder": str(folder)})
            arguments = {**common, "folder": str(folder), "batches": batches}
            left = in_child("peer_run:survivors", arguments, python=python_of(engine))
            acknowledged, lost, partial = (
                acknowledged + batches,
                lost + left["lost"],
                partial + left["partial"],
            )
    if lost == acknowledged:
        return "nothing kept"
    return f"{acknowledged - lost} of {acknowledged} batches, {partial} partial"


def _write_and_kill(engine: Engine, arguments: Row) -> int:
    """Batches acknowledged before the kill."""
    command = [python_of(engine), str(CHILD), "peer_run:write_until_killed", json.dumps(arguments)]
    # Its own group: an engine may have helpers, which die with it.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert child.stdout
    seen = 0
    for line in child.stdout:
        seen += line.strip().isdigit()
        if seen == _ACKNOWLEDGED:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return seen


def python_of(engine: Engine) -> str:
    """The interpreter of an engine's environment."""
    return str(CACHE / engine.environment / "bin" / "python") if engine.environment else sys.executable


def _prepare(engine: Engine) -> str:
    """Make the environment unless it is there; returns the engine's version."""
    if engine.environment and not (CACHE / engine.environment / "ready").exists():
        venv.create(CACHE / engine.environment, clear=True, with_pip=True)
        subprocess.run([python_of(engine), "-m", "pip", "install", "-q", *engine.packages], check=True)
        (CACHE / engine.environment / "ready").touch()
    return _version(engine)


def _version(engine: Engine) -> str:
    if not engine.environment:
        return "this checkout"
    code = f"from importlib.metadata import version; print(version({engine.packages[0]!r}))"
    done = subprocess.run([python_of(engine), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "not prepared: run with --prepare"
