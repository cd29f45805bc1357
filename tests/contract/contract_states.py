"""What an index must hold, kept outside of it: states, and random writes that change them.

A state is {side: {id: (vector bytes, attributes)}}; what `rollback` and `restore` lead to stands
beside the sides, under "previous" (a state) and "kept" (states by name). A write is one JSON
document, so that the process that writes and the one that checks agree on it to the byte.
"""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from duality.index.pair import Pair, build

Rows = dict[str, tuple[bytes, dict[str, Any]]]
State = dict[str, Any]
Write = dict[str, Any]

DIM = 8
SIDES = ("users", "items")
# Writes that make another generation the current one.
SWITCHES = ("build", "restore", "rollback")
COLUMNS = ("year", "price", "title", "adult", "day", "tags")
# Ids that writes choose from, per side: few enough that most are replaced and deleted again.
UNIVERSE = 160


def vectors_for(seed: int, rows: int) -> np.ndarray:
    """float32 [rows, DIM], lengths differing about fourfold."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, DIM)) * rng.uniform(0.5, 2, (rows, 1))).astype(np.float32)


def values_for(column: str, seed: int, rows: int) -> list[Any]:
    """Attribute values, some of them missing."""
    rng = random.Random(f"{column} {seed}")
    kinds = {
        "year": lambda: rng.randrange(1900, 2000),
        "price": lambda: round(rng.uniform(0, 50), 2),
        "title": lambda: rng.choice(["Ärger", "it's", "", "naïve 🎬", "x" * 300]) + str(rng.random()),
        "adult": lambda: rng.random() < 0.5,
        "day": lambda: dt.date(2020, 1, 1) + dt.timedelta(rng.randrange(900)),
        "tags": lambda: [f"t{rng.randrange(9)}" for _ in range(rng.randrange(4))],
    }
    return [None if rng.random() < 0.1 else kinds[column]() for _ in range(rows)]


def attribute_table(columns: Sequence[str], seed: int, rows: int) -> pa.Table:
    """The attributes of a write."""
    types = {
        "year": pa.int64(),
        "price": pa.float64(),
        "title": pa.string(),
        "adult": pa.bool_(),
        "day": pa.date32(),
        "tags": pa.list_(pa.string()),
    }
    return pa.table({name: pa.array(values_for(name, seed, rows), types[name]) for name in columns})


def embedding_table(seed: int, rows: int, prefix: str) -> pa.Table:
    """A whole side in the embed format, all attributes included."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors_for(seed, rows).ravel()), DIM)
    table = pa.table({"id": [f"{prefix}{row}" for row in range(rows)], "vector": lists})
    attributes = attribute_table(COLUMNS, seed, rows)
    for name in attributes.column_names:
        table = table.append_column(name, attributes.column(name))
    return table


def built_state(seed: int, users: int, items: int) -> State:
    """What `build_index` of the same arguments must hold."""
    empty: State = {side: {} for side in SIDES}
    writes = [
        {"verb": "upsert", "side": side, "ids": [f"{side[0]}{n}" for n in range(rows)], "seed": seed + part}
        for part, (side, rows) in enumerate([("users", users), ("items", items)])
    ]
    for write in writes:
        empty = applied(empty, {**write, "columns": COLUMNS, "vectors": True})
    return empty


def build_index(folder: Path, kind: str, seed: int, users: int, items: int) -> None:
    """Build (or replace) an index with a seeded content."""
    tables = [embedding_table(seed, users, "u"), embedding_table(seed + 1, items, "i")]
    build(folder, tables[0], tables[1], spec=kind)


def random_write(rng: random.Random, state: State) -> Write:
    """An upsert, a delete, a change of attributes only, or upkeep."""
    side, kept = rng.choice(["items", "items", "users"]), state.get("kept", {})
    verbs = {"upsert": 9, "delete": 4, "attributes": 4, "snapshot": 1, "compact": 1, "reopen": 1}
    verbs |= {"create": 0.5, "restore": 0.5 if kept else 0, "rollback": 0.5 if "previous" in state else 0}
    verb = rng.choices(list(verbs), list(verbs.values()))[0]
    if verb in ("reopen", "rollback"):
        return {"verb": verb}
    if verb == "create":
        return {"verb": verb, "name": f"kept{len(kept)}"}
    if verb == "restore":
        return {"verb": verb, "name": rng.choice(sorted(kept))}
    if verb in ("snapshot", "compact"):
        return {"verb": verb, "side": side}
    held = sorted(state[side])
    size = round(2 ** rng.uniform(0, 6))
    if verb == "attributes" and held:
        ids = rng.sample(held, min(size, len(held)))
    else:
        ids = [f"{side[0]}{n}" for n in rng.sample(range(UNIVERSE), size)]
    if verb == "delete":
        return {"verb": verb, "side": side, "ids": ids}
    return {
        "verb": "upsert",
        "side": side,
        "ids": ids,
        "seed": rng.randrange(1 << 30),
        "columns": rng.sample(COLUMNS, rng.randrange(1, len(COLUMNS))),
        "vectors": verb == "upsert" or not held,
    }


def applied(state: State, write: Write) -> State:
    """The state after a write; the old one stays as it is."""
    verb, kept = write["verb"], state.get("kept", {})
    if verb in SWITCHES:
        new = {
            "build": lambda: built_state(write["seed"], write["users"], write["items"]),
            "restore": lambda: kept[write["name"]],
            "rollback": lambda: state["previous"],
        }[verb]()
        return {**new, "previous": rows_of(state), "kept": kept}
    if verb == "create":
        return {**state, "kept": {**kept, write["name"]: rows_of(state)}}
    if verb not in ("upsert", "delete"):
        return state
    rows = dict(state[write["side"]])
    if verb == "delete":
        for id in write["ids"]:
            rows.pop(id, None)
        return {**state, write["side"]: rows}
    ids, seed = write["ids"], write["seed"]
    vectors = [vector.tobytes() for vector in vectors_for(seed, len(ids))] if write["vectors"] else None
    columns = {name: values_for(name, seed, len(ids)) for name in write["columns"]}
    for row, id in enumerate(ids):
        vector, attributes = rows.get(id, (b"", {}))
        changed = {name: _as_read(values[row]) for name, values in columns.items()}
        kept = {**attributes, **changed}
        filled = {name: value for name, value in kept.items() if value is not None}
        rows[id] = (vectors[row] if vectors else vector, filled)
    return {**state, write["side"]: rows}


def rows_of(state: State) -> State:
    """The sides of a state alone."""
    return {side: state[side] for side in SIDES}


def _as_read(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value


def perform(pair: Pair, write: Write) -> Pair:
    """Do a write; returns the open index, another one when the write closed it."""
    verb = write["verb"]
    if verb in ("reopen", "build"):
        path = pair.path
        pair.close()
        if verb == "build":
            build_index(path, write["kind"], write["seed"], write["users"], write["items"])
        return Pair.open(path, "w")
    if verb == "create":
        pair.create_snapshot(write["name"])
        return pair
    if verb == "restore":
        pair.restore_snapshot(write["name"])
        return pair
    if verb == "rollback":
        pair.rollback()
        return pair
    side = pair.side(write["side"])
    if verb == "delete":
        side.delete(write["ids"])
    elif verb == "upsert":
        rows = len(write["ids"])
        vectors = vectors_for(write["seed"], rows) if write["vectors"] else None
        side.upsert(write["ids"], vectors, attribute_table(write["columns"], write["seed"], rows))
    else:
        getattr(side, verb)()
    return pair


def held_by(pair: Pair) -> State:
    """What an open index holds, through its public listing; missing attributes are left out."""
    return {
        side: {
            record["id"]: (
                np.asarray(record["vector"], "<f4").tobytes(),
                {name: value for name, value in record["attributes"].items() if value is not None},
            )
            for record in pair.side(side).list()
        }
        for side in SIDES
    }


def to_json(state: State) -> str:
    """A state as text."""
    return json.dumps(state, default=bytes.hex)


def from_json(text: str) -> State:
    """A state from text."""
    return _with_bytes(json.loads(text))


def _with_bytes(plain: State) -> State:
    state: State = {
        side: {id: (bytes.fromhex(vector), held) for id, (vector, held) in plain[side].items()}
        for side in SIDES
    }
    if "previous" in plain:
        state["previous"] = _with_bytes(plain["previous"])
    if "kept" in plain:
        state["kept"] = {name: _with_bytes(one) for name, one in plain["kept"].items()}
    return state
