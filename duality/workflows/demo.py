"""`duality demo`: the whole story on the bundled sample, with titles, end to end.

One user and one film are left out of the import, so that training never sees them; at the end they
come back as a raw history and a raw audience.

Writes: everything under one folder: dataset, model, index, evaluation, campaign, audiences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from duality.artifacts import atomic_file, write_json
from duality.data import sample
from duality.runtime import say
from duality.targeting.run import target
from duality.workflows.index import Index
from duality.workflows.recipe import PathsSection, load_recipe
from duality.workflows.recommend import recommend
from duality.workflows.run import run_recipe
from duality.workflows.targeting import open_for_targeting

NEW_USER, NEW_ITEM = "203", "463985"  # left out of the import; the film is one of a known series
SHOWN_USER, SHOWN_ITEM = "764", "2209418"
GIVEN = 5  # users of the new film that its vector is made from
CAMPAIGNS = """# Two campaigns that compete for the same users: each user gets one of them at most.
[run]
cap = 1

[[campaign]]
id = "horror-night"
items = ["1457767", "1288558"]   # The Conjuring, Evil Dead
size = 200

[[campaign]]
id = "space-weekend"
items = ["1408101", "1483013"]   # Star Trek Into Darkness, Oblivion
size = 200
"""

Tell = Callable[[str], None]


def demo(out: Path, tell: Tell, settings: Iterable[str] = ()) -> dict[str, Any]:
    """Run the story.

    Args:
        out: folder for everything that is written; stages that are up to date are reused.
        tell: receives the lines for the reader.
        settings: `section.key=value`, over those of the demo recipe.

    Returns:
        `dataset`, `train`, `index`, `evaluate`, `queries`, and `campaigns`, `files`, `seconds`.
    """
    started = time.monotonic()
    recipe = load_recipe(Path(str(files("duality.workflows") / "recipes" / "demo.toml")), settings)
    where = f"user_id != '{NEW_USER}' and item_id != '{NEW_ITEM}'"
    left_out = recipe.import_.model_copy(update={"where": where})
    paths = PathsSection(dataset="dataset", model="model", index="index")
    recipe = recipe.model_copy(update={"import_": left_out, "paths": paths})
    tell(f"Training on MovieTweetings 100k without user {NEW_USER} and one film; both come back below.")
    stages = run_recipe(recipe, out / "stages.json", root=out)
    reused = [name for name, document in stages.items() if document["skipped"]]
    if reused:
        tell(f"Reused from an earlier run in {out}: {', '.join(reused)}.")
    story = Story(out, tell)
    with Index.open(out / recipe.paths.index) as index:
        queries = story.queries(index)
        recommend(index, "users", "all", out / "recommendations.parquet")
    story.numbers(stages["evaluate"])
    campaigns = story.campaigns(out / recipe.paths.index)
    written = story.ending(recipe.paths.model, recipe.paths.index)
    seconds = round(time.monotonic() - started, 1)
    say(f"{seconds} s in all")
    document = {
        "dataset": stages["import"],
        "train": stages["train"],
        "index": stages["index"],
        "evaluate": {k: v for k, v in stages["evaluate"].items() if k != "skipped"},
        "queries": queries,
        "campaigns": campaigns,
        "reused": reused,
        "files": written,
        "seconds": seconds,
    }
    write_json(out / "demo.json", document)
    return document


class Story:
    """Tells what the index answers, with titles."""

    def __init__(self, out: Path, tell: Tell) -> None:
        self.out, self.tell = out, tell

    @cached_property
    def titles(self) -> dict[str, str]:
        table = pq.read_table(sample.path() / "items.parquet", columns=["item_id", "title"])
        ids = table.column("item_id").cast(pa.string()).to_pylist()
        return dict(zip(ids, table.column("title").to_pylist(), strict=True))

    @cached_property
    def log(self) -> pa.Table:
        """The whole sample, oldest first, ids as strings."""
        table = pq.read_table(sample.path() / "interactions.parquet").sort_by("timestamp")
        columns = {name: table.column(name).cast(pa.string()) for name in ("user_id", "item_id")}
        return pa.table(columns)

    def queries(self, index: Index) -> dict[str, Any]:
        """Both directions, known and new."""
        return {
            "user": self._known_user(index),
            "item": self._known_item(index),
            "new_user": self._new_user(index),
            "new_item": self._new_item(index),
        }

    def _known_user(self, index: Index) -> dict[str, Any]:
        history = self._items_of(SHOWN_USER)
        ids, scores = index.recommend_items(SHOWN_USER, k=8)
        self.tell(f"\nWhat should user {SHOWN_USER} see? Lately: {self._named(history[-6:])}")
        self._list(ids, scores)
        return {"user": SHOWN_USER, "history": history, "results": ids}

    def _known_item(self, index: Index) -> dict[str, Any]:
        ids, scores = index.recommend_users(SHOWN_ITEM, k=5)
        self.tell(f"\nWho should see {self.titles[SHOWN_ITEM]}? Users who have not, and what they saw last")
        for user, score in zip(ids, scores, strict=True):
            self.tell(f"  {score:7.2f}  user {user}: {self._named(self._items_of(user)[-3:])}")
        return {"item": SHOWN_ITEM, "results": ids}

    def _new_user(self, index: Index) -> dict[str, Any]:
        known = index.items.attributes_of(self._items_of(NEW_USER))
        history = [item for item in self._items_of(NEW_USER) if item in known]
        given, later = history[:-4], history[-4:]
        self.tell(
            f"\nA user that training never saw ({NEW_USER}), known by {len(given)} films: {self._named(given[-4:])}"
        )
        ids, scores = index.recommend_items(history=given, k=index.items.count)
        self._list(ids[:8], scores[:8])
        places = [ids.index(item) + 1 for item in later if item in ids]
        self.tell(
            f"  the {len(later)} films that this user saw next rank {_and(places)} of {len(ids):,} candidates"
        )
        return {"history": given, "results": ids[:8], "held_out_ranks": places, "candidates": len(ids)}

    def _new_item(self, index: Index) -> dict[str, Any]:
        known = index.users.attributes_of(self._users_of(NEW_ITEM))
        users = [user for user in self._users_of(NEW_ITEM) if user in known]
        given, later = users[:GIVEN], users[GIVEN:]
        title = self.titles[NEW_ITEM]
        self.tell(f"\nA film that training never saw ({title}), known by its first {GIVEN} users")
        ids, scores = index.recommend_users(audience=given, k=index.users.count)
        for user, score in zip(ids[:5], scores[:5], strict=True):
            self.tell(f"  {score:7.2f}  user {user}: {self._named(self._items_of(user)[-3:])}")
        place = {user: rank for rank, user in enumerate(ids)}
        beaten = 1 - np.mean([place[user] for user in later]) / (len(ids) - 1)
        self.tell(
            f"  its {len(later)} later users rank above {beaten:.0%} of the {len(ids):,} candidates on average (chance: 50%)"
        )
        return {
            "audience": given,
            "results": ids[:5],
            "later_users": len(later),
            "beaten": round(float(beaten), 4),
        }

    def numbers(self, report: dict[str, Any]) -> None:
        """The evaluation, and plainly whether the model beats the strongest baseline."""
        self.tell("\nLeave-one-out test, full ranking, 95% intervals (NDCG@10, Recall@100)")
        for direction, part in ((k, v) for k, v in report.items() if isinstance(v, dict)):
            self.tell(f"  {direction}, {part['queries']:,} queries")
            for name, metrics in {"duality": part["metrics"], **part["baselines"]}.items():
                self.tell(
                    f"    {name:20} {_interval(metrics['ndcg@10'])}   {_interval(metrics['recall@100'])}"
                )
            baselines = part["baselines"]
            strongest = max(baselines, key=lambda name: baselines[name]["ndcg@10"]["value"])
            difference = part["comparisons"][strongest]["ndcg@10"]
            self.tell(f"    {_verdict(difference, strongest)}")

    def campaigns(self, index: Path) -> dict[str, Any]:
        """Two campaigns, one audience each."""
        path = self.out / "campaigns.toml"
        with atomic_file(path) as temporary:
            temporary.write_text(CAMPAIGNS, encoding="utf-8")
        document = target(open_for_targeting(index), path, self.out / "audiences")
        self.tell("\nTwo campaigns, one at most per user")
        for campaign in document["campaigns"]:
            self.tell(
                f"  {campaign['id']}: {campaign['size']} users, mean score {campaign['mean_score']:.2f}"
            )
        self.tell(f"  total {document['objective']:.1f}, upper bound {document['bound']:.1f}")
        return document

    def ending(self, model: str, index: str) -> list[str]:
        """Name what was written and what to try next."""
        names = [model, index, "recommendations.parquet", "audiences", "campaigns.toml", "demo.json"]
        written = [str(self.out / name) for name in names]
        self.tell("\nWritten: " + ", ".join(written))
        self.tell("Try next:")
        self.tell(
            f"  duality query --index {self.out / index} --user {SHOWN_USER} --where \"genres contains 'Comedy'\""
        )
        self.tell(f"  duality query --index {self.out / index} --item {SHOWN_ITEM}")
        self.tell("  duality data import YOUR_LOG.csv && duality train && duality index build")
        return written

    def _items_of(self, user: str) -> list[str]:
        return self.log.filter(pc.equal(self.log.column("user_id"), user)).column("item_id").to_pylist()

    def _users_of(self, item: str) -> list[str]:
        return self.log.filter(pc.equal(self.log.column("item_id"), item)).column("user_id").to_pylist()

    def _named(self, items: Sequence[str]) -> str:
        return " · ".join(self.titles.get(item, item) for item in items)

    def _list(self, ids: Sequence[str], scores: np.ndarray) -> None:
        for identifier, score in zip(ids, scores, strict=True):
            self.tell(f"  {score:7.2f}  {self.titles[identifier]}")


def _and(places: Sequence[int]) -> str:
    return ", ".join(f"{place:,}" for place in places)


def _interval(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def _verdict(difference: dict[str, Any], opponent: str) -> str:
    span = f"{difference['difference']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
    if difference["low"] > 0:
        return f"The model beats {opponent}: NDCG@10 {span}."
    if difference["high"] < 0:
        return f"The model does NOT beat {opponent}: NDCG@10 {span}."
    return f"No difference from {opponent} can be told: NDCG@10 {span}."
