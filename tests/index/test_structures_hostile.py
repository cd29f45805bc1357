"""Damaged or hostile arrays are refused, or searched within bounds; the process survives either way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from structure_worlds import KINDS, clusters, made, packed

from duality.errors import DamageError
from duality.index.structures.build import unpack_structure

ROWS = 300
HERE = Path(__file__).parent

CHILD = """
import json, sys
import numpy as np
sys.path.insert(0, {here!r})
from test_structures_hostile import trials
print(json.dumps(trials({kind!r}, {seed}, {number})))
"""


def _flip(rng: np.random.Generator, arrays: dict[str, np.ndarray]) -> None:
    """Damage one array: some bits, some values, its shape or its type."""
    name = rng.choice(sorted(arrays))
    array = np.array(arrays[name])
    raw = array.view(np.uint8).reshape(-1)
    match rng.integers(0, 7):
        case 0 if raw.size:
            raw[rng.integers(0, raw.size)] ^= 1 << rng.integers(0, 8)
        case 1 if raw.size:
            places = rng.integers(0, raw.size, 1 + raw.size // 10)
            raw[places] = rng.integers(0, 256, len(places))
        case 2 if array.size:
            extreme = {"i": [-1, -2, ROWS, 2**31 - 1, -(2**31)], "u": [0, 255], "f": [np.nan, np.inf, -1e38]}
            array.reshape(-1)[rng.integers(0, array.size)] = rng.choice(extreme[array.dtype.kind])
        case 3 if array.size:
            array.reshape(-1)[:] = rng.permutation(array.reshape(-1))
        case 4:
            array = array[: len(array) // 2]
        case 5:
            array = array.reshape(-1)
        case _:
            array = array.astype(np.float64 if array.dtype != np.float64 else np.int8)
    arrays[str(name)] = array


def _bend(rng: np.random.Generator, settings: dict[str, object]) -> None:
    name = str(rng.choice(sorted(settings)))
    values = [None, -1, 0, 1, 7, 10**12, 1e300, float("nan"), "x", [], [[1, 2]], {}, {"nprobe": -5}, True]
    settings[name] = values[rng.integers(0, len(values))]


def trials(kind: str, seed: int, number: int) -> dict[str, int]:
    """Damage, unpack, search, change; counts of what came of it."""
    vectors, queries = clusters(ROWS, dim=8), clusters(4, dim=8, seed=5)
    settings, arrays = packed(made(kind, np.arange(ROWS) * 2, vectors))
    rng, counts = np.random.default_rng(seed), {"refused": 0, "searched": 0}
    for _ in range(number):
        bent, damaged = json.loads(json.dumps(settings)), dict(arrays)
        _bend(rng, bent) if rng.random() < 0.2 else _flip(rng, damaged)
        try:
            structure = unpack_structure(bent, damaged)
        except DamageError:
            counts["refused"] += 1
            continue
        with np.errstate(all="ignore"):
            for allowed in (None, structure.keys()[::2]):
                scores, found = structure.search(queries, 10, allowed)
                assert scores.shape == found.shape
                assert np.isin(found[found >= 0], structure.keys()).all()
            structure.remove(structure.keys()[:5])
            structure.add(np.array([5_001, 5_003]), vectors[:2])
            structure.search(queries, 10)
            structure.plan(10, queries=queries, allowed=structure.keys()[::2])
            structure.pack()
        counts["searched"] += 1
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_damage_never_ends_the_process(kind):
    number = 150
    code = CHILD.format(here=str(HERE), kind=kind, seed=11, number=number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2_000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["refused"] + counts["searched"] == number
    assert counts["refused"] > 20


@pytest.fixture(scope="module", params=KINDS)
def sound(request):
    return packed(made(request.param, np.arange(ROWS) * 2, clusters(ROWS, dim=8)))


def test_missing_arrays_are_refused(sound):
    settings, arrays = sound
    for name in arrays:
        rest = {other: array for other, array in arrays.items() if other != name}
        with pytest.raises(DamageError, match=f"(?s){name}.*duality index compact"):
            unpack_structure(settings, rest)


def test_repeated_and_wild_keys_are_refused(sound):
    settings, arrays = sound
    for value in (0, -1, 1 << 62):
        keys = arrays["keys"].copy()
        keys[np.flatnonzero(keys != 0)[0]] = value
        with pytest.raises(DamageError, match="key"):
            unpack_structure(settings, {**arrays, "keys": keys})


@pytest.mark.parametrize("settings", [{}, {"kind": None}, {"kind": "nonsense"}, {"kind": ["ivf"]}, None])
def test_unknown_kinds_are_refused(settings):
    with pytest.raises(DamageError, match="unknown kind"):
        unpack_structure(settings, {})


def test_wrong_links_are_refused():
    settings, arrays = packed(made("hnsw", np.arange(ROWS) * 2, clusters(ROWS, dim=8)))
    for name, place, value in [
        ("neighbours", 0, ROWS),
        ("neighbours", 3, -2),
        ("levels", 0, 0),
        ("levels", 0, 1_000),
        ("entry", 0, ROWS),
        ("entry", 0, -1),
    ]:
        wrong = arrays[name].copy()
        wrong[place] = value
        with pytest.raises(DamageError):
            unpack_structure(settings, {**arrays, name: wrong})


def test_falling_offsets_are_refused():
    settings, arrays = packed(made("ivf", np.arange(ROWS) * 2, clusters(ROWS, dim=8)))
    for place, value in [(0, 1), (1, ROWS + 1), (-1, ROWS + 1), (2, -1)]:
        wrong = arrays["offsets"].copy()
        wrong[place] = value
        with pytest.raises(DamageError, match="offsets"):
            unpack_structure(settings, {**arrays, "offsets": wrong})
