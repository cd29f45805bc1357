"""`duality` commands in processes of their own, forked from one that has imported what they need.

A command spends seconds on importing torch and milliseconds on a test's data; what it does is the same.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "duality.cli.main",
        "duality.workflows.train",
        "duality.workflows.index",
        "duality.workflows.build",
        "pyarrow.parquet",
    ]
)


def command(
    *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `duality ARGS` prints, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("out", "err")]
        process = _CONTEXT.Process(target=_run, args=(args, str(cwd or "."), dict(env or os.environ), *files))
        process.start()
        process.join()
        out, err = (Path(file).read_text(encoding="utf-8") for file in files)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(["duality", *args], process.exitcode, out, err)


def _run(args: Sequence[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["duality", *args]
    from duality.cli.main import run

    run()
