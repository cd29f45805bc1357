"""The checksum of a file is the same however it is taken, and every part of every file counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from duality.index.checksums import RunningCrc, file_crc, file_crcs

# A part is 16 MiB: none, less than one, exactly one, and more.
SIZES = (0, 5, 1 << 24, (1 << 25) + 7)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[list[int], list[int]]]:
    """Descriptors of files open for both, and the checksums of what was written to them."""
    generator, written = np.random.default_rng(1), []
    with ExitStack() as stack:
        descriptors = []
        for size in SIZES:
            data, running = generator.bytes(size), RunningCrc()
            running.update(memoryview(data))
            written.append(running.value())
            (tmp_path / str(size)).write_bytes(data)
            descriptors.append(stack.enter_context(open(tmp_path / str(size), "r+b")).fileno())
        yield descriptors, written


def test_files_side_by_side_have_the_checksums_of_each_alone(files: tuple[list[int], list[int]]) -> None:
    descriptors, written = files
    assert [file_crc(descriptor) for descriptor in descriptors] == written
    assert file_crcs(descriptors) == written
    assert file_crcs(descriptors[:2]) == written[:2]
    assert file_crcs([]) == []


@pytest.mark.parametrize("place", [0, (1 << 24) - 1, 1 << 24, SIZES[-1] - 1])
def test_a_changed_byte_changes_the_checksum_of_its_file_only(
    files: tuple[list[int], list[int]], place: int
) -> None:
    descriptors, written = files
    os.pwrite(descriptors[-1], bytes([os.pread(descriptors[-1], 1, place)[0] ^ 1]), place)
    found = file_crcs(descriptors)
    assert found[:-1] == written[:-1]
    assert found[-1] != written[-1]
