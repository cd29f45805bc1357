"""Child processes that run jobs for a test and may be killed, crash or hang while they do.

An agent imports everything once and then runs jobs, each in a fork of itself when asked: what a
job breaks ends with the fork, and a start costs milliseconds.

A job is a function `module:name(emit, **arguments)` of this folder; what it returns and what it
emits are JSON documents.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Modes of fault.c.
COUNT, DIE, POWER, FULL, SYNC_ONCE, SYNC_ALWAYS = range(1, 7)


class JobEnded(Exception):  # noqa: N818 - an outcome, not always an error
    """The process ended (or hung and was killed) before its job was done."""


class Agent:
    """A child process; started when first needed and again after it ended.

    Args:
        library: the compiled fault.c to preload, if any.
        folder: where its faults strike.
    """

    def __init__(self, library: Path | None = None, folder: Path | None = None) -> None:
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        root = HERE.parent.parent
        self._environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(root)])
        if library and folder:
            self._environment |= {"LD_PRELOAD": str(library), "DUALITY_FAULT_FOLDER": str(folder.resolve())}
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def call(self, job: str, *, fork: bool = False, timeout: float = 60, **arguments: Any) -> Any:
        """Run a job to its end and return what it returned.

        Raises:
            JobEnded: its process ended or did not answer in time; the next call starts another.
            AssertionError: the job raised; the text is its traceback.
        """
        for message in self.stream(job, fork=fork, timeout=timeout, **arguments):
            if "error" in message:
                raise AssertionError(message["error"])
            if "result" in message:
                result = message["result"]
            if "exit" in message and message["exit"] != 0:
                raise JobEnded(f"{job}: the process ended with status {message['exit']}")
        return result

    def stream(
        self, job: str, *, fork: bool = True, timeout: float = 60, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """Run a job and yield its messages as they come: {"pid"}, what it emits, {"result"}, {"exit"}.

        Raises:
            JobEnded: its process ended, or no message came for `timeout` seconds.
        """
        process = self._running()
        assert process.stdin
        order = {"job": job, "fork": fork, "arguments": arguments}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        while True:
            message = self._read(job, time.monotonic() + timeout)
            yield message
            if "exit" in message or (not fork and ("result" in message or "error" in message)):
                return

    def run_cases(self, job: str, cases: list[Any], **arguments: Any) -> list[str]:
        """Run a job that emits {"problems": lines} per case; what ends its process is a problem too.

        Args:
            job: takes `cases` and does them in order.
            cases: JSON documents.
            arguments: its other arguments.

        Returns:
            The problems of all cases, each after its case.
        """
        problems, done = [], 0
        while done < len(cases):
            try:
                for message in self.stream(job, fork=False, timeout=15, cases=cases[done:], **arguments):
                    if "error" in message:
                        raise AssertionError(message["error"])
                    if "problems" in message:
                        problems += [f"{cases[done]}: {line}" for line in message["problems"]]
                        done += 1
            except JobEnded as ended:
                problems.append(f"{cases[done]}: {ended}")
                done += 1
        return problems

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "contract_agents.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
            self._buffer = b""
        return self._process

    def _read(self, job: str, deadline: float) -> dict[str, Any]:
        assert self._process
        assert self._process.stdout
        while b"\n" not in self._buffer:
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            block = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not block:
                status = self.close()
                raise JobEnded(
                    f"{job}: " + (f"the process ended with status {status}" if ready else "it hung")
                )
            self._buffer += block
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def close(self) -> int | None:
        """End the process, whatever it does; its exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            # Its forks hang with it: they share its session.
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        return process.wait()


def arm(mode: int, at: int, seed: int = 0) -> None:
    """Choose, inside an agent with fault.c, which call fails and how."""
    ctypes.CDLL(None).fault_arm(mode, ctypes.c_long(at), ctypes.c_ulong(seed))


def disarm() -> tuple[int, str]:
    """Stop failing; how many calls counted since `arm`, and which failed first."""
    library = ctypes.CDLL(None)
    library.fault_calls.restype = ctypes.c_long
    library.fault_fired.restype = ctypes.c_char_p
    found = library.fault_calls(), library.fault_fired().decode()
    library.fault_arm(0, ctypes.c_long(0), ctypes.c_ulong(0))
    return found


def emit(message: dict[str, Any]) -> None:
    """Send one message to the test; sent whole when this returns."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(ANSWERS, data) :]


def _run(job: str, arguments: dict[str, Any]) -> None:
    module, name = job.split(":")
    try:
        emit({"result": getattr(importlib.import_module(module), name)(emit, **arguments)})
    except Exception:
        emit({"error": traceback.format_exc()})


def _forked(order: dict[str, Any]) -> None:
    child = os.fork()
    if child == 0:
        emit({"pid": os.getpid()})
        _run(order["job"], order["arguments"])
        os._exit(0)
    emit({"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def _main() -> None:
    # A file that claims to be huge must not take the machine with it.
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for module in ("numpy", "pyarrow", "faiss", "duality.index.pair"):
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        if order["fork"]:
            _forked(order)
        else:
            _run(order["job"], order["arguments"])


if __name__ == "__main__":
    # Answers have their own descriptor: whatever else prints cannot garble them.
    sys.modules["contract_agents"] = sys.modules["__main__"]
    ANSWERS = os.dup(1)
    os.dup2(2, 1)
    _main()
