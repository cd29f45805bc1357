"""`duality doctor`: what is installed, what works, what to install."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import sys
from typing import Any

import numpy as np

from duality.runtime import num_threads

REQUIRED = ("torch", "numpy", "pyarrow", "duckdb", "scipy", "safetensors", "pydantic", "click", "rich")


def doctor() -> dict[str, Any]:
    """Run every check.

    Returns:
        `checks`: [{`name`, `ok`, `found`, `advice`}], advice empty when all is well.
    """
    checks = [_python(), *(_package(name) for name in REQUIRED), _faiss(), _search(), _threads(), _device()]
    return {"checks": checks}


def _check(name: str, ok: bool, found: str, advice: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "found": found, "advice": "" if ok else advice}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> dict[str, Any]:
    return _check(
        "python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer"
    )


def _package(name: str) -> dict[str, Any]:
    version = _version(name)
    return _check(name, version is not None, version or "missing", f"pip install {name}")


def _faiss() -> dict[str, Any]:
    found = {name: version for name in ("faiss-cpu", "faiss-gpu") if (version := _version(name))}
    text = ", ".join(f"{name} {version}" for name, version in found.items()) or "missing"
    advice = 'pip install "duality[cpu]"'
    if len(found) == 2:
        advice = "both give the module faiss and break each other: pip uninstall -y faiss-cpu faiss-gpu, then one extra"
    return _check("faiss", len(found) == 1, text, advice)


def _search() -> dict[str, Any]:
    """Whether FAISS finds a vector that was just added: an import alone proves little."""
    try:
        from duality.index.faiss_module import faiss

        index = faiss().IndexFlatIP(4)
        index.add(np.eye(4, dtype=np.float32))
        found = index.search(np.eye(4, dtype=np.float32), 1)[1][:, 0].tolist() == [0, 1, 2, 3]
    except Exception as error:
        return _check("vector search", False, str(error), 'pip install "duality[cpu]"')
    return _check(
        "vector search", found, "finds what was added" if found else "wrong answer", "reinstall faiss"
    )


def _threads() -> dict[str, Any]:
    asked, cores = num_threads(), len(os.sched_getaffinity(0))
    advice = f"OMP_NUM_THREADS asks for more threads than the {cores} cores: unset it"
    return _check("threads", asked <= cores, f"{asked} of {cores} cores", advice)


def _device() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return _check("device", False, "torch is missing", 'pip install "torch>=2.8,<2.14"')
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return _check("device", True, name)
