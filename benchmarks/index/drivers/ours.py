"""duality through its public interface: every upsert and delete is synced to disk when it returns."""

from __future__ import annotations

from index.drivers.base import Driver
from index.worlds import K, Matrix32, Rows, names_of, rows_of, table


class Duality(Driver):
    """An index whose items are the rows; `kind` by the class."""

    kind = "exact"
    # Settings are found by `tune`, which keeps the cheapest that reaches a target.
    efforts = (0,)

    def build(self, vectors: Matrix32) -> None:
        from duality.index.pair import build

        build(self.folder / "index", table(vectors[:16]), table(vectors), spec=self.kind)
        self.open()

    def open(self) -> None:
        from duality.index.pair import Pair

        self.pair = Pair.open(self.folder / "index", "w")
        self.side = self.pair.items

    def use(self, effort: int) -> None:
        return None

    def tune(self, queries: Matrix32, target: float) -> None:
        """Measure and keep the cheapest setting that reaches the recall."""
        self.pair.tune("items", queries, K, target)

    def search(self, queries: Matrix32, k: int) -> Rows:
        return rows_of(self.side.search(queries, k)[0])

    def upsert(self, rows: Rows, vectors: Matrix32) -> None:
        self.side.upsert(names_of(rows), vectors)

    def delete(self, rows: Rows) -> None:
        self.side.delete(names_of(rows))

    def held(self, rows: Rows) -> int:
        return len(self.side.get(names_of(rows))[0])

    def settle(self) -> bool:
        self.side.compact()
        return True

    def close(self) -> None:
        self.pair.close()


class DualityIvf(Duality):
    """Inverted lists."""

    kind = "ivf"


class DualityHnsw(Duality):
    """A graph."""

    kind = "hnsw"


class DualitySq8(Duality):
    """Inverted lists, a byte per value, re-ranked."""

    kind = "sq8"


class DualityExact(Duality):
    """Scores everything."""
