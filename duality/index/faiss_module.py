"""The `faiss` module, imported when first needed: query start-up pays for it only when it searches."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from duality.errors import MissingExtraError
from duality.runtime import brief_spins, num_threads, say


@functools.cache
def faiss() -> Any:
    """The module, with its thread count set to the cores this process may use.

    Raises:
        MissingExtraError: neither faiss-cpu nor faiss-gpu is installed.
    """
    brief_spins()
    try:
        import faiss as module
    except ImportError:
        raise MissingExtraError("faiss", '"duality[cpu]" or "duality[gpu]"') from None
    module.omp_set_num_threads(num_threads())
    _warn_of_both(Path(module.__file__).parent.parent)
    return module


def _warn_of_both(site: Path) -> None:
    """Both wheels write the same folder: the later one wins and uninstalling either breaks the other."""
    wheels = {path.name.split("-")[0] for path in site.glob("faiss_*.dist-info")}
    if len(wheels) > 1:
        names = " and ".join(sorted(name.replace("_", "-") for name in wheels))
        say(f"warning: {names} are both installed and overwrite each other: uninstall both, then install one")
