"""FAISS inverted lists whose numbers and distances are ours, filled when first probed.

Opening a million vectors copies none of them: a list is copied out of the mapped arrays by the
first search that probes it.

Hazards: FAISS removes from lists in constant time only through its hash map, which an IDSelectorArray
         makes it use. It is set up before the first removal from a filled list; from then on, every
         list that is filled must enter it.

Shapes: L lists, B base positions (those of the arrays), P positions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duality.index.faiss_module import faiss
from duality.index.structures.labels import Labels
from duality.index.structures.matrix import Growing, Keys, Matrix32

Codes = NDArray[np.uint8]

_FEW = 100


class Lists:
    """Who is in which list.

    Args:
        index: a trained, empty FAISS IndexIVF of L lists; FAISS ids are positions.
        labels: of all positions; positions without a key are not put into lists.
        groups: int32 [B], list of each base position.
        order: int64 [B], base positions by list; None when they already are.
        codes: uint8 [B, code size], by base position.
    """

    def __init__(
        self, index: Any, labels: Labels, groups: NDArray[np.int32], order: Keys | None, codes: Codes
    ) -> None:
        self.index, self._labels, self._order, self.codes = index, labels, order, codes
        self._groups = Growing(groups)
        self._offsets = _starts(groups, index.nlist, ascending=order is None)
        # Empty lists need no filling.
        self._filled = np.diff(self._offsets) == 0
        self._all_filled = bool(self._filled.all())
        # Whether FAISS's hash map is in use.
        self.mapped = False
        self._mutex = threading.Lock()

    @property
    def groups(self) -> NDArray[np.int32]:
        """List of each position, int32 [P]; a view. Dead positions keep theirs."""
        return self._groups.view

    def need(self, lists: Keys) -> None:
        """Fill those of `lists` (-1 for none) that are not filled; any thread may ask."""
        if self._all_filled or self._filled[lists].all():
            return
        missing = lists[~self._filled[lists] & (lists >= 0)]
        if not len(missing):
            return
        with self._mutex:
            for number in np.unique(missing).tolist():
                if not self._filled[number]:
                    self._fill(number)
                    self._filled[number] = True
            self._all_filled = bool(self._filled.all())

    def add(self, start: int, stored: Matrix32, groups: NDArray[np.int32]) -> None:
        """Put the positions `start` and on into lists.

        Args:
            start: first position.
            stored: float32 [N, D], the vectors as the index encodes them.
            groups: int32 [N].
        """
        pointer = faiss().swig_ptr
        positions, lists = np.arange(start, start + len(stored)), groups.astype(np.int64)
        with _threads_for(len(stored)):
            self.index.add_core(len(stored), pointer(stored), pointer(positions), pointer(lists))
        self._groups.append(groups)

    def remove(self, positions: Keys) -> None:
        """Take live positions out; their labels must be dropped before the next search."""
        self.expect(positions)
        if self.mapped:
            # Those of lists not yet filled are unknown to the map: they will be filled without them.
            module = faiss()
            self.index.remove_ids_c(module.IDSelectorArray(len(positions), module.swig_ptr(positions)))

    def expect(self, positions: Keys) -> None:
        """Make the removal of live positions quick; may run beside searches, and once takes a while."""
        if self.mapped:
            return
        unfilled = (positions < len(self.codes)) & ~self._filled[self.groups[positions]]
        if unfilled.all():
            return
        with self._mutex:
            self.index.set_direct_map_type(faiss().DirectMap.Hashtable)
            self.mapped = True

    def _fill(self, number: int) -> None:
        positions = self._base_positions(number)
        if not len(positions):
            return
        codes, pointer = np.ascontiguousarray(self.codes[positions]), faiss().swig_ptr
        if not self.mapped:
            self.index.invlists.add_entries(number, len(positions), pointer(positions), pointer(codes))
            return
        width = self.index.coarse_code_size()
        coded = np.empty((len(codes), width + codes.shape[1]), np.uint8)
        coded[:, :width] = np.frombuffer(number.to_bytes(width, "little"), np.uint8)
        coded[:, width:] = codes
        self.index.add_sa_codes(coded, positions)

    def _base_positions(self, number: int) -> Keys:
        start, end = self._offsets[number : number + 2].tolist()
        positions = np.arange(start, end) if self._order is None else self._order[start:end]
        return positions[self._labels.by_position[positions] >= 0]


@contextmanager
def _threads_for(rows: int) -> Iterator[None]:
    """FAISS's threads, of this thread's calls only; waking them takes longer than adding a few rows."""
    module = faiss()
    threads = module.omp_get_max_threads()
    module.omp_set_num_threads(1 if rows < _FEW else threads)
    try:
        yield
    finally:
        module.omp_set_num_threads(threads)


def _starts(groups: NDArray[np.int32], nlist: int, *, ascending: bool) -> Keys:
    """Where each list starts among base positions in list order, and their number, int64 [L + 1]."""
    if ascending:
        return np.searchsorted(groups, np.arange(nlist + 1, dtype=np.int32))
    return np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=nlist))])
