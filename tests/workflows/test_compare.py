"""`duality compare` on small models: same queries, refusals, both kinds of output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_worlds import SMALL

from duality.cli.compare import compare as command
from duality.cli.compare import notes
from duality.errors import InputError
from duality.workflows.compare import compare, contestants
from duality.workflows.evaluate import evaluate


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default dataset with two more models: hardly trained, and trained for a cut in time."""
    from duality.workflows.recipe import load_recipe
    from duality.workflows.train import train

    root = tmp_path_factory.mktemp("compare")
    shutil.copytree(world / "datasets", root / "datasets")
    shutil.copytree(world / "models", root / "models")
    # Popularity, chosen afterwards, would help a model that learned nothing.
    unchosen = ["choose.popularity=false", "choose.generated_share=false"]
    brief = [*SMALL, *unchosen, "train.epochs=1", "train.learning_rate=0.00001"]
    train(root / "datasets/default", root / "models/brief", load_recipe(None, brief))
    brief = [*brief, "split.name=temporal"]
    train(root / "datasets/default", root / "models/temporal", load_recipe(None, brief))
    return root / "models"


def test_values_are_those_of_evaluate(trained: Path) -> None:
    found = compare([str(trained / "default"), str(trained / "brief")], metrics=["ndcg@10", "auc"])
    alone = evaluate(trained / "default")
    for direction, part in found.items():
        mine = part["models"]["default"]["metrics"]
        for name in ("ndcg@10", "auc"):
            assert mine[name]["value"] == pytest.approx(alone[direction]["metrics"][name]["value"])
        assert part["queries"] == alone[direction]["queries"]
    assert found["item-to-user"]["time_matched"]["models"]["default"]["metrics"]["auc"][
        "value"
    ] == pytest.approx(alone["item-to-user"]["time_matched"]["metrics"]["auc"]["value"])
    assert found["user-to-item"]["judged_together"] == 6


def test_a_trained_model_beats_an_untrained_one(trained: Path) -> None:
    found = compare(
        [str(trained / "default"), str(trained / "brief")], direction="user-to-item", metrics=["auc"]
    )
    (row,) = found["user-to-item"]["comparisons"]
    assert (row["first"], row["second"], row["verdict"]) == ("default", "brief", "first is better")


def test_seeds_average_and_baselines_join(trained: Path) -> None:
    both = f"pair={trained / 'default'},{trained / 'brief'}"
    found = compare([both], direction="user-to-item", metrics=["ndcg@10"], baselines=True)["user-to-item"]
    singles = [
        compare([str(trained / name)], direction="user-to-item", metrics=["ndcg@10"], baselines=True)
        for name in ("default", "brief")
    ]
    values = [
        single["user-to-item"]["models"][name]["metrics"]["ndcg@10"]["value"]
        for single, name in zip(singles, ("default", "brief"))
    ]
    assert found["models"]["pair"]["seeds"] == 2
    assert found["models"]["pair"]["metrics"]["ndcg@10"]["value"] == pytest.approx(sum(values) / 2)
    assert {"most_popular", "item_knn"} < set(found["models"])
    assert {row["second"] for row in found["comparisons"]} == {"pair"}


def test_refusals(trained: Path, tmp_path: Path) -> None:
    default, brief, temporal = (str(trained / name) for name in ("default", "brief", "temporal"))
    with pytest.raises(InputError, match="trained for temporal, not for leave-one-out"):
        compare([default, temporal])
    with pytest.raises(InputError, match="named twice"):
        compare([f"a={default}", f"b={default}"])
    with pytest.raises(InputError, match="two models are called 'x'"):
        compare([f"x={default}", f"x={brief}"])
    with pytest.raises(InputError, match="two models, or one and --baselines"):
        compare([default])
    with pytest.raises(InputError, match="unknown metric"):
        compare([default, brief], metrics=["ndgc@10"])
    with pytest.raises(InputError, match="FOLDER"):
        contestants(["=a", default])
    other = tmp_path / "models/other"
    shutil.copytree(trained / "brief", other)
    config = json.loads((other / "config.json").read_text())
    config["data"]["fingerprint"] = "0" * 16
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="other was trained on dataset 0000000000000000, not on"):
        compare([default, str(other)])


def test_the_command_prints_json_or_tables(trained: Path) -> None:
    models = [str(trained / "default"), str(trained / "brief")]
    asked = [*models, "--direction", "user-to-item", "--metrics", "auc,mrr@5"]
    document = json.loads(CliRunner().invoke(command, [*asked, "--json"]).stdout)
    row = document["user-to-item"]["comparisons"][0]
    keys = {"first", "second", "metric", "difference", "low", "high", "p", "p_holm", "verdict", "about"}
    assert set(row) == keys
    text = " ".join(CliRunner().invoke(command, asked).output.split())
    assert "default is better" in text
    assert "[+0." in text
    assert "speak of these trained models" in text


def test_no_difference_is_said_plainly(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    twin = shutil.copytree(trained / "default", tmp_path / "models/twin")
    data = str(trained.parent / "datasets/default")
    done = CliRunner().invoke(
        command, [str(trained / "default"), str(twin), "--data", data, "--metrics", "ndcg@10"]
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("no difference shown") == 3
    assert "is better" not in done.output


def test_notes_say_when_seeds_cannot_be_enough() -> None:
    row = {"about": "methods", "smallest_p": 2 / 70}
    assert "cannot give a p under 0.029" in " ".join(notes([row], together=4))
    assert "train more seeds" not in " ".join(notes([{**row, "smallest_p": 1e-3}], together=4))


def test_one_model_may_be_what_all_others_are_compared_with(trained: Path) -> None:
    named = [f"{name}={trained / 'default'}" for name in ("a",)]
    shutil.copytree(trained / "brief", trained / "copy", dirs_exist_ok=True)
    named += [f"b={trained / 'brief'}", f"c={trained / 'copy'}"]
    found = compare(named, metrics=["ndcg@10"], direction="user-to-item", against="a")["user-to-item"]
    assert [{row["first"], row["second"]} for row in found["comparisons"]] == [{"a", "b"}, {"a", "c"}]
    assert found["judged_together"] == 2
    with pytest.raises(InputError, match="no model is called that: a, b, c"):
        compare(named, against="d")
