"""A search structure on disk: derived data, named by the commit it stands for.

Writes: a folder `<side>.snapshot-<seq>-<token>` of plain arrays (.npy, no pickle), then
        `<side>.snapshot.json`, which names it and holds shape and checksum of every array; that
        file is what makes it the current snapshot.
Reads:  the same, memory-mapped, after comparing the checksums. No file of FAISS is ever parsed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from duality.artifacts import fsync_path
from duality.errors import DamageError
from duality.index.checksums import RunningCrc, file_crcs
from duality.index.documents import open_regular, read_document, write_document
from duality.index.head import Head
from duality.index.names import ARRAYS, Names

if TYPE_CHECKING:
    from duality.index.structures.base import Streamed, Structure

MEND = "run `duality index compact`"


@dataclass(frozen=True)
class Snapshot:
    """Structure and names at a commit, and how many records had been removed by then."""

    head: Head
    structure: Structure
    names: Names
    deleted: int


def snapshot_facts(folder: Path, side: str) -> tuple[int, int]:
    """Commit of the current snapshot and removals by then; (-1, 0) when none can be used."""
    try:
        document = read_document(pointer(folder, side), MEND)
        return int(document["seq"]), int(document["deleted"])
    except (FileNotFoundError, DamageError, KeyError, ValueError, TypeError):
        return -1, 0


def write_snapshot(folder: Path, side: str, snapshot: Snapshot) -> None:
    """Make this the current snapshot of a side, durably, and drop older ones."""
    head = snapshot.head
    settings, arrays = snapshot.structure.pack()
    arrays = {**arrays, **snapshot.names.arrays(snapshot.structure.keys())}
    target = folder / f"{side}.snapshot-{head.seq}-{uuid.uuid4().hex[:8]}"
    target.mkdir()
    try:
        described = {name: _write_array(target / f"{name}.npy", array) for name, array in arrays.items()}
        fsync_path(target)
        document = {"seq": head.seq, "chain": head.chain.hex(), "deleted": snapshot.deleted}
        document |= {"folder": target.name, "settings": dict(settings), "arrays": described}
        write_document(pointer(folder, side), document)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    drop_others(folder, side, target.name)


def drop_others(folder: Path, side: str, keep: str | None) -> None:
    """Remove snapshot folders that are not the current one, such as an interrupted write leaves."""
    for path in folder.glob(f"{side}.snapshot-*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def read_snapshot(folder: Path, side: str) -> Snapshot | None:
    """The current snapshot, or None when there is none.

    Raises:
        DamageError: an array does not match its checksum or does not fit the others.
    """
    for _ in range(3):
        try:
            return _read(folder, side)
        except FileNotFoundError:
            # A writer has replaced the snapshot since its description was read: look again.
            if not pointer(folder, side).exists():
                return None
    raise DamageError(f"{pointer(folder, side)} names a snapshot that is not there: {MEND}")


def _read(folder: Path, side: str) -> Snapshot:
    from duality.index.structures.build import unpack_structure

    document = read_document(pointer(folder, side), MEND)
    try:
        place = folder / Path(document["folder"]).name
        arrays = _read_arrays(place, document["arrays"])
        names = Names(*(arrays.pop(name) for name in ARRAYS))
        structure = unpack_structure(document["settings"], arrays)
        head = Head(int(document["seq"]), bytes.fromhex(document["chain"]))
        deleted = int(document["deleted"])
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise DamageError(f"{pointer(folder, side)} is damaged ({error}): {MEND}") from None
    return Snapshot(head, structure, names, deleted)


def pointer(folder: Path, side: str) -> Path:
    """Where the current snapshot of a side is described."""
    return folder / f"{side}.snapshot.json"


class _Summed:
    """A file being written, and the checksum of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc = file, RunningCrc()

    def write(self, data: bytes | memoryview) -> int:
        self.crc.update(memoryview(data))
        return self.file.write(data)


def _write_array(path: Path, array: NDArray | Streamed) -> dict[str, Any]:
    dtype = np.dtype(array.dtype)
    with open(path, "xb") as file:
        summed = _Summed(file)
        shape = [int(size) for size in array.shape]
        header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(summed, header)
        for block in _blocks(array):
            if block.size:
                summed.write(np.ascontiguousarray(block, dtype).data.cast("B"))
        file.flush()
        os.fsync(file.fileno())
    return {"dtype": dtype.str, "shape": shape, "crc": summed.crc.value()}


def _blocks(array: NDArray | Streamed) -> Iterator[NDArray]:
    return iter([array]) if isinstance(array, np.ndarray) else array.blocks()


def _read_arrays(place: Path, described: Mapping[str, Mapping[str, Any]]) -> dict[str, NDArray]:
    paths = {name: place / f"{Path(name).name}.npy" for name in described}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_opened(path)) for name, path in paths.items()}
        found = file_crcs([file.fileno() for file in files.values()])
        for path, facts, crc in zip(paths.values(), described.values(), found):
            if crc != facts["crc"]:
                raise DamageError(f"{path} is damaged: {MEND}")
        return {name: _mapped(paths[name], files[name], facts) for name, facts in described.items()}


def _opened(path: Path) -> BinaryIO:
    try:
        return open(open_regular(path), "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamageError(f"{path} cannot be read ({error.strerror}): {MEND}") from None


def _mapped(path: Path, file: BinaryIO, facts: Mapping[str, Any]) -> NDArray:
    content = np.memmap(file, np.uint8, "r")
    # The header is skipped, not parsed: what it says is in the description too.
    start = 10 + int.from_bytes(content[8:10].tobytes(), "little")
    dtype = np.dtype(facts["dtype"])
    if dtype.kind not in "iuf":
        raise DamageError(f"{path} holds no numbers: {MEND}")
    return content[start:].view(dtype).reshape(facts["shape"])
