"""Counters and attribute names of each side, kept in a small collection beside the records.

One row per generation and side. A writer marks it before a batch (`pending`) and counts the batch
after it, so a batch that was cut off can be told from a finished one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from duality.errors import DamageError, DataError, InputError
from duality.index.attributes import Column
from duality.index.remote.connection import Store
from duality.index.remote.schema import MAX_COLUMNS


@dataclass(frozen=True)
class State:
    """What the ledger knows of a side.

    version: acknowledged batches. count: records after the last of them. deleted: removed since the
    last compaction. pending: a batch began and was not acknowledged. longest: M (schema.py).
    structure: index type and parameters. columns: (name, kind) by slot.
    """

    dim: int
    longest: float
    structure: dict[str, Any]
    version: int = 0
    count: int = 0
    deleted: int = 0
    pending: bool = False
    columns: tuple[tuple[str, str], ...] = ()

    def kinds(self) -> dict[str, str]:
        """Attribute name to kind."""
        return dict(self.columns)

    def slots(self) -> dict[str, int]:
        """Attribute name to slot."""
        return {name: slot for slot, (name, _) in enumerate(self.columns)}

    def with_columns(self, columns: Mapping[str, Column]) -> State:
        """The state with missing attributes added.

        Raises:
            InputError: an attribute is stored with another kind.
            DataError: more attributes than the server holds.
        """
        kinds = self.kinds()
        for name, column in columns.items():
            held = kinds.setdefault(name, column.kind)
            if held != column.kind:
                raise InputError(f"attribute {name} is stored as {held}, not as {column.kind}")
        if len(kinds) > MAX_COLUMNS:
            raise DataError(f"{len(kinds):,} attributes; a store holds {MAX_COLUMNS:,}")
        return replace(self, columns=tuple(kinds.items()))

    def outside(self, row: Mapping[int, Any]) -> dict[str, Any]:
        """Attributes of a record by name, from JSON values by slot; null where there is none."""
        return {name: row.get(slot) for name, slot in self.slots().items()}


class Ledger:
    """The row of one side of one generation.

    Args:
        store: the connection.
        name: the ledger's collection.
        generation: which one.
        side: "users" or "items".
    """

    def __init__(self, store: Store, name: str, generation: str, side: str) -> None:
        self.store, self.name, self.key = store, name, f"{generation}.{side}"

    def read(self) -> State:
        """The current state.

        Raises:
            DamageError: the store no longer has it.
        """
        rows = self.store.fetch(self.name, f'id == "{self.key}"', ["id", "attributes"])
        if not rows:
            raise DamageError(f"the store {self.store.url} has lost {self.key} of {self.name}: build again")
        held = dict(rows[0]["attributes"])
        held["columns"] = tuple((name, kind) for name, kind in held["columns"])
        return State(**held)

    def write(self, state: State) -> None:
        """Replace the state."""
        row = {"id": self.key, "vector": [0.0, 0.0], "attributes": asdict(state)}
        self.store.upsert(self.name, [row])

    def drop(self) -> None:
        """Forget this side of the generation."""
        self.store.delete(self.name, f'id in ["{self.key}"]')
