"""Folders: MovieLens in its three layouts, RecBole, the bundled sample, the real data sets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from duality.data import sample
from duality.data.dataset import Dataset
from duality.data.importing import import_events
from duality.data.join_time import JoinTime
from duality.data.statistics import describe, doubling_histogram, gini, top_share
from duality.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def load(source: Any, folder: Path, **options: Any) -> Dataset:
    import_events(source, folder / "out", **options)
    return Dataset.open(folder / "out")


def write_movielens_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("1::10::5::978300760\n1::20::3::978302109\n2::10::4::978301968\n")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    (folder / "movies.dat").write_bytes(
        "10::Misérables, Les (1995)::Drama|War\n20::Heat (1995)::Action\n".encode("latin-1")
    )


def write_movielens_100k(folder: Path) -> None:
    (folder / "u.data").write_text("1\t10\t5\t978300760\n1\t20\t3\t978302109\n2\t10\t4\t978301968\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    flags = ["0"] * 19
    drama = "|".join([*flags[:8], "1", *flags[9:17], "1", *flags[18:]])
    action = "|".join(["0", "1", *flags[2:]])
    rows = f"10|Misérables, Les (1995)|01-Jan-1995||url|{drama}\n20|Heat (1995)|01-Jan-1995||url|{action}\n"
    (folder / "u.item").write_bytes(rows.encode("latin-1"))


def write_movielens_csv(folder: Path) -> None:
    rows = "1,10,5,978300760\n1,20,3,978302109\n2,10,4,978301968\n"
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    movies = 'movieId,title,genres\n10,"Misérables, Les (1995)",Drama|War\n20,Heat (1995),Action\n'
    (folder / "movies.csv").write_text(movies, encoding="utf-8")


@pytest.mark.parametrize("write", [write_movielens_1m, write_movielens_100k, write_movielens_csv])
def test_movielens_layouts(tmp_path: Path, write: Any) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    write(source)
    dataset = load(source, tmp_path)
    assert dataset.items().to_pylist() == [
        {"id": "10", "title": "Misérables, Les (1995)", "genres": ["Drama", "War"]},
        {"id": "20", "title": "Heat (1995)", "genres": ["Action"]},
    ]
    assert dataset.user_ids.ids(dataset.event_user) == ["1", "1", "2"]
    assert dataset.item_ids.ids(dataset.event_item) == ["10", "20", "10"]
    attributes = dataset.event_attributes()
    assert attributes is not None
    assert attributes["rating"].to_pylist() == [5, 3, 4]
    assert dataset.manifest["source"]["name"] == "ml"


def test_bad_row_of_a_movielens_file_is_named(tmp_path: Path) -> None:
    source = tmp_path / "ml"
    source.mkdir()
    write_movielens_1m(source)
    (source / "ratings.dat").write_text("1::10::5::978300760\n1::20::978302109\n")
    with pytest.raises(DataError, match=r"ratings\.dat, row 2: 3 columns"):
        import_events(source / "ratings.dat", tmp_path / "out")


def test_recbole_with_users_and_items(tmp_path: Path) -> None:
    source = tmp_path / "rb"
    source.mkdir()
    (source / "rb.inter").write_text('user_id:token\titem_id:token\ttimestamp:float\n1\t"q\t9.0\n1\ty\t8.0\n')
    (source / "rb.item").write_text('item_id:token\tgenre:token_seq\tprice:float\n"q\tA B\t1.5\ny\tC\t2\n')
    dataset = load(source, tmp_path)
    assert dataset.item_ids.ids(dataset.event_item) == ["y", '"q']
    assert dataset.items().to_pylist() == [
        {"id": '"q', "genre": ["A", "B"], "price": 1.5},
        {"id": "y", "genre": ["C"], "price": 2.0},
    ]
    (source / "rb.inter").write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match="name:type"):
        import_events(source / "rb.inter", tmp_path / "out")


def test_text_ids_in_json_stay_as_they_are(tmp_path: Path) -> None:
    ids = ["0A8C5C2E-7D1B-4D5E-9B3A-1F2E3D4C5B6A", "1B8C5C2E-7D1B-4D5E-9B3A-1F2E3D4C5B6A"]
    lines = [
        f'{{"user_id": "{user}", "item_id": "2020-01-0{n}", "ts": "2021-01-01T00:00:0{n}Z"}}'
        for n, user in enumerate(ids, 1)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines))
    dataset = load(path, tmp_path)
    assert dataset.user_ids.ids([0, 1]) == ids
    assert dataset.item_ids.ids([0, 1]) == ["2020-01-01", "2020-01-02"]
    assert dataset.manifest["first_event"] == "2021-01-01T00:00:01Z"


def test_bundled_sample_imports_with_titles(tmp_path: Path) -> None:
    dataset = load(sample.path(), tmp_path)
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (16_554, 10_506, 100_000)
    titles = dict(zip(*(dataset.items()[name].to_pylist() for name in ("id", "title"))))
    assert titles["2844"] == "Fantômas - À l'ombre de la guillotine (1913)"
    assert "MIT" in (sample.path() / "LICENSE").read_text()
    found = describe(dataset)
    months = found["statistics"]["events_per_month"]
    assert sum(months.values()) == 100_000
    assert (min(months), max(months)) == ("2013-02", "2013-09")
    lengths = np.bincount(np.asarray(dataset.event_user))
    assert found["statistics"]["events_per_user"]["median"] == np.median(lengths)
    assert sum(bin_["count"] for bin_ in found["statistics"]["events_per_item"]["histogram"]) == 10_506


def test_opening_and_looking_up_imports_no_table_engine(tmp_path: Path) -> None:
    load(sample.path(), tmp_path)
    code = (
        "import sys\nfrom duality.data.dataset import Dataset\n"
        "dataset = Dataset.open(sys.argv[1])\nassert dataset.user_ids.row('1') >= 0\n"
        "print([name for name in ('pyarrow', 'duckdb', 'torch', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_measures_on_known_answers() -> None:
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(0.75)
    assert top_share(np.array([1, 1, 1, 7]), 0.01) == pytest.approx(0.7)
    assert [bin_["count"] for bin_ in doubling_histogram(np.array([1, 2, 3, 4, 9]))] == [1, 2, 1, 1]


def test_ties_repeats_and_gaps_are_counted(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"user_id": list("aaaab"), "item_id": list("xxyzx"), "ts": [10, 20, 20, 50, 20]})
    found = describe(load(frame, tmp_path))["statistics"]
    assert found["tied_time_share"] == pytest.approx(2 / 5)
    assert found["repeats_share"] == pytest.approx(1 / 5)
    assert (found["gap_seconds"]["min"], found["gap_seconds"]["max"]) == (0.0, 30.0)
    assert found["density"] == pytest.approx(5 / 6)


REAL = {
    "ml-100k": ({}, (943, 1_682, 100_000)),
    "movietweetings-100k": ({}, (16_554, 10_506, 100_000)),
    "open-bandit-sample": ({"event_column": "click"}, (79, 58, 207)),
    "kuairand-pure": ({"event_column": "is_click"}, (21_811, 5_085, 100_900)),
    "s3rec-beauty": ({}, (22_363, 12_101, 198_502)),
    "ml-1m": ({}, (6_040, 3_706, 1_000_209)),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not at {SHARED}")
@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_import(tmp_path: Path, name: str) -> None:
    options, sizes = REAL[name]
    dataset = load(SHARED / name, tmp_path, **options)
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == sizes
    log = pq.read_table(SHARED / name / "interactions.parquet").to_pandas()
    if "event_column" in options:
        log = log[log[options["event_column"]] > 0]
    pairs = sorted(zip(log["user_id"].astype(str), log["item_id"].astype(str)))
    assert (
        sorted(zip(dataset.user_ids.ids(dataset.event_user), dataset.item_ids.ids(dataset.event_item)))
        == pairs
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data sets are not at {SHARED}")
def test_sasrec_order_survives_and_times_join(tmp_path: Path) -> None:
    join = JoinTime(SHARED / "ml-1m", "ml1m_user_id", "ml1m_item_id")
    dataset = load(SHARED / "sasrec-ml-1m", tmp_path, join_time=join)
    log = (
        pq.read_table(SHARED / "sasrec-ml-1m" / "interactions.parquet")
        .to_pandas()
        .sort_values(["user_id", "position"])
    )
    expected = {str(user): group.astype(str).tolist() for user, group in log.groupby("user_id")["item_id"]}
    for user in range(0, dataset.num_users, 500):
        events = slice(dataset.user_indptr[user], dataset.user_indptr[user + 1])
        assert dataset.item_ids.ids(dataset.event_item[events]) == expected[dataset.user_ids.id(user)]
    assert dataset.event_time is not None
    item_times = np.asarray(dataset.event_time)[np.asarray(dataset.item_event)]
    inside = np.diff(np.asarray(dataset.event_item)[np.asarray(dataset.item_event)]) == 0
    assert np.all(np.diff(item_times)[inside] >= 0)
    assert dataset.manifest["order_disagrees_with_time"] == 0
