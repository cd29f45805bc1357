"""Table `search`: our search beside bare FAISS of the same kind and setting.

"FAISS" is FAISS as it comes. At the same number of probes its lists hold other vectors than ours, so
its recall and its work differ; "alike" has the extra dimension that our lists and graphs have, and
so does the same work: what remains is what our layers cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from index.bare import KINDS, Bare
from index.measuring import Row, interleaved, turns, workplace
from index.worlds import K, Matrix32, World, built, recall, world

_BATCH, _SINGLES = 256, 20


def measure(asked: argparse.Namespace) -> list[Row]:
    """A row per data set and kind."""
    kinds = asked.kinds.split(",") if asked.kinds else KINDS
    rows = []
    for name in asked.data.split(","):
        data = world(name, asked.rows, asked.dim)
        for kind in kinds:
            with workplace("search") as folder:
                rows.append({"data": name, **_kind(folder / "index", data, kind, asked.seconds)})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def chosen_spec(kind: str, rows: int) -> Any:
    """The built-in spec, with the number of lists written out so that both sides use it."""
    from duality.index.spec import IndexSpec

    has_lists = kind != "exact" and "nlist" in type(getattr(IndexSpec(), kind)).model_fields
    section = {kind: {"nlist": int(2 * rows**0.5)}} if has_lists else {}
    return IndexSpec.model_validate({"kind": kind, **section})


def bare_options(spec: Any, dim: int) -> dict[str, Any]:
    """Options for `Bare` that match a spec."""
    options = dict(spec.options())
    if options["kind"] == "ivfpq" and not options["pieces"]:
        options["pieces"] = -(-dim // 2)
    return options


def _kind(folder: Path, data: World, kind: str, budget: float) -> Row:
    from duality.index.pair import Pair

    spec = chosen_spec(kind, len(data.items))
    built(folder, data, spec)
    options = bare_options(spec, data.items.shape[1])
    plain = Bare(kind, options, data.items)
    alike = plain if kind == "exact" else Bare(kind, options, data.items, lengthened=True)
    with Pair.open(folder) as pair:
        side = pair.items
        setting = dict(side.plan(K).settings)
        found: Row = {"kind": kind, "setting": _written(setting)}
        found["recall"] = recall(side.search(data.queries, K)[0], data.truth())
        times = _times(side, {"FAISS": plain, "alike": alike}, setting, data, budget)
    for name, bare in {"FAISS": plain, "alike": alike}.items():
        found[f"recall of {name}"] = recall(bare.search(bare.asked(data.queries), K), data.truth())
    one, many = times
    found |= {"1: µs": 1e6 * one["ours"], "256: queries/s": _BATCH / many["ours"]}
    for name in ("FAISS", "alike"):
        found[f"1: µs more than {name}"] = 1e6 * (one["ours"] - one[name])
        found[f"256: of {name}"] = many[name] / many["ours"]
    return found


def _times(
    side: Any, bares: Mapping[str, Bare], setting: Mapping[str, Any], data: World, budget: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of one search alone and of a batch, of ours and of each bare index, in turn."""

    def ours(batch: Matrix32) -> Callable[[], Any]:
        return lambda: side.search(batch, K)

    def theirs(bare: Bare, batch: Matrix32) -> Callable[[], Any]:
        asked = bare.asked(batch)
        return lambda: bare.search(asked, K)

    def each(batch: Matrix32) -> dict[str, Callable[[], Any]]:
        return {"ours": ours(batch)} | {name: theirs(bare, batch) for name, bare in bares.items()}

    for bare in bares.values():
        bare.set(setting)
    many = each(data.queries[:_BATCH])
    singles = [each(data.queries[row : row + 1]) for row in range(_SINGLES)]
    one = {name: _all_of([calls[name] for calls in singles]) for name in many}
    one_times = interleaved(one, turns(one["ours"], budget / 12, most=101), before=1)
    return (
        {name: value / _SINGLES for name, value in one_times.items()},
        interleaved(many, turns(many["ours"], budget / 12), before=1),
    )


def _all_of(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    def run() -> None:
        for call in calls:
            call()

    return run


def _written(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items()) or "–"
