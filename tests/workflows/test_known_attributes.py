"""Attributes from a recipe to an index and its updates: learned, kept with the model, known again later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_worlds import SMALL, synthetic_log

from duality.data.coding import Vocabulary
from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.encoders.base import Layout
from duality.errors import InputError
from duality.model.folder import ModelFolder
from duality.workflows.build import build_index, model_for
from duality.workflows.evaluate import evaluate
from duality.workflows.index import Index
from duality.workflows.query import answer
from duality.workflows.recipe import load_recipe
from duality.workflows.train import train

RATED = 'model.event_attributes=["rating"]'
KNOWN = ['model.item_attributes=["genres","year"]', 'model.user_attributes=["id"]', "train.epochs=3"]


@pytest.fixture(scope="module")
def knowing(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset and a model of it that knows genres and years of items and every user."""
    root = tmp_path_factory.mktemp("knowing")
    shutil.copytree(world / "datasets/default", root / "data")
    train(root / "data", root / "model", load_recipe(None, [*SMALL, *KNOWN]))
    return root


def test_a_model_folder_keeps_what_its_model_knows(knowing: Path) -> None:
    folder, dataset = ModelFolder.open(knowing / "model"), Dataset.open(knowing / "data")
    known = Vocabulary.from_json(folder.config["vocabulary"]["items"])
    assert known.columns[0].values == ("G0", "G1", "G2", "G3")
    model = folder.load()
    assert model.item_attributes is not None
    assert model.user_attributes is not None
    assert model.item_attributes.vectors.abs().max() > 0.01
    assert model.user_attributes.vectors.shape == (dataset.num_users, model.dim)
    assert model.user_attributes.vectors.abs().max() > 0.001
    own = model.parametrizations.item_table.original.detach()  # type: ignore[union-attr, index]
    vectors, coded = model.item_attributes.vectors.detach(), known.codes(dataset.items())
    assert np.diff(coded.indptr).max() == 2  # a genre and a bucket of years
    row = int(np.flatnonzero(np.diff(coded.indptr) == 2)[0])
    added = vectors[coded.code[coded.indptr[row] : coded.indptr[row + 1]]].sum(0)
    torch.testing.assert_close(model.item_table.detach()[row] - own[row], added)


def test_owners_are_found_again_in_another_order(knowing: Path, tmp_path: Path) -> None:
    """A dataset whose users have other rows gives every user the vector of the same id."""
    folder, dataset = ModelFolder.open(knowing / "model"), Dataset.open(knowing / "data")
    table = dataset.users()
    moved = table.take(np.random.default_rng(0).permutation(len(table)))
    coded, rows = folder.codes("users", moved), dataset.user_ids.find(moved.column("id").to_pylist())
    assert coded is not None
    np.testing.assert_array_equal(coded.code, rows)
    strangers = folder.codes("users", pa.table({"id": ["nobody", "somebody else"]}))
    assert strangers is not None
    assert strangers.indptr.tolist() == [0, 0, 0]


def test_it_is_evaluated_indexed_asked_and_updated(knowing: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(knowing / "data", data)
    shutil.copytree(knowing / "model", tmp_path / "model")
    report = evaluate(model=tmp_path / "model", data=data, direction="both", baselines=False)
    assert report["user-to-item"]["metrics"]["ndcg@10"]["value"] > 0.05
    build_index(tmp_path / "model", tmp_path / "index", "exact", data)
    for question in ({"user": "u3"}, {"item": "i3"}, {"history": ["i1", "i5"]}, {"audience": ["u1", "u5"]}):
        assert len(answer(tmp_path / "index", **question)["results"]) == 10
    last = int(np.asarray(Dataset.open(data).event_time).max())
    events = pa.table(
        {
            "user": ["u3", "new", "new", "u4"],
            "item": ["i7", "i1", "i2", "brand-new"],
            "time": pa.array([last + n for n in range(1, 5)], pa.timestamp("us", "UTC")),
        }
    )
    with Index.open(tmp_path / "index", mode="w") as index:
        done = index.update(events)
        assert (done["new_users"], done["new_items"]) == (1, 1)
        updated = index.users.get(["u3", "new"])[0]
    # An index built of the same events from nothing has the same users.
    build_index(tmp_path / "model", tmp_path / "again", "exact", data)
    with Index.open(tmp_path / "again") as index:
        built = index.users.get(["u3", "new"])[0]
    for one, other in zip(updated, built, strict=True):
        np.testing.assert_allclose(one["vector"], other["vector"], atol=1e-4)


def test_the_same_user_is_another_without_their_vector(knowing: Path) -> None:
    folder, dataset = ModelFolder.open(knowing / "model"), Dataset.open(knowing / "data")
    from duality.data.histories import user_histories
    from duality.embeddings import user_states

    model = model_for(folder, dataset)
    histories = user_histories(dataset, np.ones(dataset.num_events, bool))
    known = user_states(model, dataset, histories, model.item_table.detach())
    assert model.user_attributes is not None
    model.user_attributes.vectors.data.zero_()
    assert (user_states(model, dataset, histories, model.item_table.detach()) - known).abs().max() > 1e-3


def test_an_attribute_that_is_not_there_is_refused_before_training(knowing: Path, tmp_path: Path) -> None:
    recipe = load_recipe(None, [*SMALL, 'model.item_attributes=["colour"]'])
    with pytest.raises(InputError, match=r"items have no attribute 'colour': there is id, .*year"):
        train(knowing / "data", tmp_path / "model", recipe)
    assert not (tmp_path / "model").exists()


def test_models_without_attributes_say_nothing_of_them(world: Path) -> None:
    config = json.loads((world / "models/default/config.json").read_text())
    assert config["vocabulary"] == {}
    assert not list((world / "models/default").glob("users.ids.*"))


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a rating, and a model that knows it."""
    root = tmp_path_factory.mktemp("rated")
    log = synthetic_log()
    ratings = np.random.default_rng(0).integers(1, 6, len(log))
    import_events(log.append_column("rating", pa.array(ratings)), root / "data")
    train(root / "data", root / "model", load_recipe(None, [*SMALL, RATED, "train.epochs=3"]))
    return root


def test_ratings_are_known_wherever_histories_are_read(rated: Path, tmp_path: Path) -> None:
    folder, dataset = ModelFolder.open(rated / "model"), Dataset.open(rated / "data")
    model = folder.load()
    assert model.event_codes is not None
    codes = model.event_codes.of(dataset)
    assert codes is not None
    assert sorted(np.unique(codes).tolist()) == [0, 1, 2, 3, 4]
    ratings = dataset.event_attributes().column("rating").to_numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(codes[:, 0] + 1, ratings)
    assert model.user_context is not None
    assert model.user_context.vectors.abs().max() > 1e-3
    build_index(rated / "model", tmp_path / "index", "exact", rated / "data")
    user = dataset.user_ids.row("u3")
    events = np.flatnonzero(dataset.event_user == user)
    rows = model.item_table[torch.from_numpy(dataset.event_item[events].astype(np.int64))]
    with Index.open(tmp_path / "index") as index:
        stored = np.array(index.users.get(["u3"])[0][0]["vector"])[: model.dim]
    known, unknown = (
        model.user_states(
            rows, Layout(np.array([len(events)]), np.asarray(dataset.event_time[events]), context=c)
        )
        for c in (codes[events], None)
    )
    np.testing.assert_allclose(stored, known[-1].detach().numpy(), atol=1e-4)
    assert (known - unknown).abs().max() > 1e-3


def test_a_log_without_other_columns_has_no_event_attributes(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no columns beside user, item and time"):
        train(world / "datasets/default", tmp_path / "model", load_recipe(None, [*SMALL, RATED]))
