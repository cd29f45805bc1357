"""A Milvus-compatible server of one's own, for the tests of stores: milvus-lite, in its own environment.

`$DUALITY_TEST_STORE` names a server to test against instead; the tests then make and drop their own
collections there, and those that kill the server are skipped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REQUIREMENTS = ["milvus-lite>=3.2,<4", "pymilvus>=2.5", "setuptools"]
GIVEN = os.environ.get("DUALITY_TEST_STORE")


class Server:
    """milvus-lite on 127.0.0.1; `kill` is kill -9."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            command = [self.program, "server", "--data-dir", self.folder / "data", "--host", "127.0.0.1"]
            self.process = subprocess.Popen(
                [*map(str, command), "--port", str(self.port)], stdout=log, stderr=log
            )
        _wait(self)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(server: Server) -> None:
    for _ in range(200):
        if server.process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.1)
    log = (server.folder / "log").read_text(errors="replace").strip().splitlines()
    server.kill()
    pytest.skip(f"milvus-lite does not start: {log[-1] if log else 'no output'}")


@contextmanager
def own_server() -> Iterator[Server]:
    """A fresh server with an empty folder, killed and removed at the end."""
    program = _environment() / "venv/bin/milvus-lite"
    folder = Path(tempfile.mkdtemp(prefix="duality-store-"))
    server = None
    try:
        server = Server(program, folder)
        yield server
    finally:
        if server:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _environment() -> Path:
    """The virtual environment of the server, made once per machine and user."""
    name = f"duality-milvus-lite-{os.getuid()}-{sys.version_info.major}.{sys.version_info.minor}"
    home = Path(tempfile.gettempdir()) / name
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid() or home.is_symlink():
        pytest.skip(f"{home} belongs to somebody else")
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "ready").exists():
            _install(home)
            (home / "ready").touch()
    return home


def _install(home: Path) -> None:
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(home / "venv")],
        [str(home / "venv/bin/pip"), "install", "-q", *REQUIREMENTS],
    ]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no environment for milvus-lite: {error}")
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            pytest.skip(f"no environment for milvus-lite: {lines[-1] if lines else command}")
