"""NumPy files written piece by piece: memory stays at one piece, whatever the array's length."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np


class ArrayWriter:
    """A one-dimensional `.npy` file of known length, filled from front to back.

    Appending beats a writable memory map here: the pages of a map that is being filled count as
    the process's memory until the kernel writes them.
    """

    def __init__(self, path: Path, dtype: type[np.generic], length: int) -> None:
        self.dtype, self.length, self.written = np.dtype(dtype), length, 0
        self._path = path
        self._file = open(path, "wb")  # noqa: SIM115 - closed in __exit__
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (length,),
            },
        )

    def append(self, values: np.ndarray) -> None:
        """Write the next values [n], cast to the file's type."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.written += len(values)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self.written != self.length:
            raise AssertionError(f"{self._path.name}: {self.written} of {self.length} values")
