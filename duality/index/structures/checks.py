"""Arrays and settings that come from a file are checked before anything relies on them.

FAISS and NumPy views trust offsets and numbers; a wrong one would read outside of memory. What is
checked costs O(keys + lists): the vectors themselves cannot do harm, only be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.errors import DamageError
from duality.index.structures.matrix import Keys, Matrix32

MAX_DIM = 65_536


@contextmanager
def refusing(kind: str) -> Iterator[None]:
    """Turns whatever wrong contents raise into one DamageError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError, MemoryError) as error:
        raise damaged(f"the {kind} structure does not fit together ({error})") from None


def damaged(what: str) -> DamageError:
    """A structure's damage is mended by making it again."""
    return DamageError(f"{what}: make it again with `duality index compact`")


def array_in(
    arrays: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """A named array of the right type and shape, as a plain view.

    Args:
        arrays: by name.
        name: which.
        dtype: what its values must be.
        shape: what each dimension must be, None for any.

    Raises:
        ValueError: missing, or another type, shape or memory order.
    """
    if name not in arrays:
        raise ValueError(f"no array {name}")
    array = np.asarray(arrays[name])
    if array.dtype != np.dtype(dtype) or array.ndim != len(shape) or not array.flags.c_contiguous:
        raise ValueError(f"array {name} is {array.dtype} with {array.ndim} dimensions")
    if any(want is not None and want != have for want, have in zip(shape, array.shape)):
        raise ValueError(f"array {name} has shape {array.shape}, not {shape}")
    return array


def keys_in(arrays: Mapping[str, NDArray[Any]]) -> Keys:
    """The array `keys`; `Labels` checks the values."""
    return array_in(arrays, "keys", np.int64, (None,))


def matrix_in(arrays: Mapping[str, NDArray[Any]], rows: int) -> Matrix32:
    """The array `matrix` [rows, D], 1 <= D <= MAX_DIM."""
    matrix = array_in(arrays, "matrix", np.float32, (rows, None))
    if not 1 <= matrix.shape[1] <= MAX_DIM:
        raise ValueError(f"vectors of {matrix.shape[1]} values")
    return matrix


def finite_in(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...]
) -> NDArray[np.float32]:
    """A small float32 array whose values are all finite."""
    array = array_in(arrays, name, np.float32, shape)
    if not np.isfinite(array).all():
        raise ValueError(f"array {name} holds NaN or infinite values")
    return array


def offsets_in(arrays: Mapping[str, NDArray[Any]], name: str, parts: int | None, total: int) -> Keys:
    """int64 [parts + 1], from 0 to `total` without going down."""
    offsets = array_in(arrays, name, np.int64, (None if parts is None else parts + 1,))
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ValueError(f"array {name} does not rise from 0 to {total}")
    return offsets


def positions_in(arrays: Mapping[str, NDArray[Any]], name: str, total: int) -> Keys:
    """int64, ascending positions below `total`."""
    positions = array_in(arrays, name, np.int64, (None,))
    if len(positions) and not (
        positions[0] >= 0 and positions[-1] < total and (np.diff(positions) > 0).all()
    ):
        raise ValueError(f"array {name} points outside of the matrix")
    return positions


def number_in(settings: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """A number of the settings, low <= value <= high.

    Raises:
        ValueError: missing, not a number, or out of range.
    """
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"setting {name} is {value!r}")
    return value


def integer_in(settings: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """As `number_in`, whole."""
    value = number_in(settings, name, low, high)
    if not isinstance(value, int):
        raise ValueError(f"setting {name} is {value!r}")
    return value
