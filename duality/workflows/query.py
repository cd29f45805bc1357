"""`duality query`: one question, one document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duality.errors import InputError
from duality.runtime import say
from duality.workflows.index import Index


def answer(
    index: Path,
    *,
    data: Path | None = None,
    user: str | None = None,
    item: str | None = None,
    history: Sequence[str] | None = None,
    audience: Sequence[str] | None = None,
    k: int = 10,
    where: str | None = None,
    include_seen: bool = False,
    at: str | None = None,
    temperature: float | None = None,
    seed: int = 0,
    explain: bool = False,
) -> dict[str, Any]:
    """Ask an index exactly one thing.

    Returns:
        `query` (what was asked) and `results`: [{`rank`, `id`, `score`, `attributes`}]; with
        `explain` also `plan`: how the index was searched, and why.

    Raises:
        InputError: not exactly one of user, item, history and audience.
        UnknownIdError: an id that is not in the index; near ones are suggested.
    """
    asked = {"user": user, "item": item, "history": history, "audience": audience}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise InputError("give exactly one of --user, --item, --history and --audience")
    if at is not None:
        say("this model's encoder does not use the request time: --at changes nothing")
    options: dict[str, Any] = {
        "k": k,
        "where": where,
        "include_seen": include_seen,
        "temperature": temperature,
        "seed": seed,
    }
    with Index.open(index, data=data) as opened:
        if user is not None or history is not None:
            side = opened.items
            ids, scores = opened.recommend_items(user, history=history, **options)
        else:
            side = opened.users
            ids, scores = opened.recommend_users(item, audience=audience, **options)
        attributes = side.attributes_of(ids)
        plan = {"plan": side.plan(k, where).as_dict()} if explain else {}
    results = [
        {"rank": rank, "id": identifier, "score": float(score), "attributes": attributes[identifier]}
        for rank, (identifier, score) in enumerate(zip(ids, scores, strict=True), 1)
    ]
    return {"query": given, "results": results, **plan}
