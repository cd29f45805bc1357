"""Off-policy estimates on logs whose truth is known, and what a log must not hold."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from small_worlds import SHARED

from duality.cli.off_policy import off_policy as command
from duality.errors import DataError, InputError
from duality.evaluation.off_policy import (
    arm_means,
    doubly_robust,
    effective_sample_size,
    ips,
    make_log,
    mean_weight,
    report,
    snips,
)
from duality.retrieval.sampling import draw, log_softmax
from duality.workflows.off_policy import off_policy

ARMS = 6
MEANS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
LOGGING = np.array([0.3, 0.25, 0.2, 0.12, 0.08, 0.05])
TARGET = np.array([0.05, 0.05, 0.1, 0.2, 0.3, 0.3])
TRUTH = float(TARGET @ MEANS)


def one_log(random: np.random.Generator, rows: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    arm = random.choice(ARMS, size=rows, p=LOGGING)
    return arm, (random.random(rows) < MEANS[arm]).astype(float)


@pytest.fixture(scope="module")
def estimates() -> dict[str, np.ndarray]:
    """[R, 3] value, low, high of each estimator over independent logs."""
    random, found = np.random.default_rng(0), {"ips": [], "snips": [], "dr": [], "mean": []}
    for _ in range(600):
        arm, reward = one_log(random)
        log = make_log(reward, LOGGING[arm], TARGET[arm])
        means, fold = arm_means(arm, reward, ARMS, log.cluster)
        dr = doubly_robust(log, means[fold, arm], (TARGET @ means.T)[fold])
        for name, e in (("ips", ips(log)), ("snips", snips(log)), ("dr", dr), ("mean", mean_weight(log))):
            found[name].append((e.value, e.low, e.high))
    return {name: np.array(rows) for name, rows in found.items()}


@pytest.mark.parametrize(("name", "truth"), [("ips", TRUTH), ("snips", TRUTH), ("dr", TRUTH), ("mean", 1.0)])
def test_no_bias_and_intervals_that_cover(estimates, name: str, truth: float) -> None:
    value, low, high = estimates[name].T
    assert abs(value.mean() - truth) < 4 * value.std() / np.sqrt(len(value))
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.92 < covered < 0.98
    assert (high - low).mean() == pytest.approx(2 * 1.96 * value.std(), rel=0.1)


def test_a_reward_model_and_self_normalising_reduce_the_variance(estimates) -> None:
    spread = {name: rows[:, 0].std() for name, rows in estimates.items()}
    assert spread["dr"] < 0.95 * spread["ips"]
    assert spread["snips"] < spread["ips"]


def test_doubly_robust_survives_a_wrong_model() -> None:
    random, values = np.random.default_rng(1), []
    for _ in range(300):
        arm, reward = one_log(random)
        log = make_log(reward, LOGGING[arm], TARGET[arm])
        wrong = np.linspace(2, -1, ARMS)
        values.append(doubly_robust(log, wrong[arm], np.full(len(arm), TARGET @ wrong)).value)
    assert abs(np.mean(values) - TRUTH) < 4 * np.std(values) / np.sqrt(len(values))


def test_effective_sample_size_by_hand() -> None:
    ones = np.ones(4)
    assert effective_sample_size(make_log(ones, ones * 0.5, ones * 0.2)) == pytest.approx(4)
    one_sided = make_log(ones, ones * 0.5, np.array([0.4, 0.0, 0.0, 0.0]))
    assert effective_sample_size(one_sided) == pytest.approx(1)
    assert effective_sample_size(make_log(ones, ones, 0 * ones)) == 0


def test_clusters_widen_the_interval() -> None:
    reward = np.repeat(np.random.default_rng(0).integers(0, 2, 200), 10).astype(float)
    half = np.full(2000, 0.5)
    alone, by_user = (ips(make_log(reward, half, half, cluster=c)) for c in (None, np.arange(2000) // 10))
    assert alone.value == by_user.value
    ratio = (by_user.high - by_user.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.05)
    cancelling = ips(make_log(np.tile([0.0, 1.0], 100), half[:200], half[:200], cluster=np.arange(200) // 2))
    assert cancelling.high - cancelling.low < 1e-9


def test_draws_without_replacement_are_evaluated_by_their_inclusion_probabilities() -> None:
    """Three of six shown at a time; the target shows one, by other scores."""
    random, draws = np.random.default_rng(2), 20_000
    scores = np.array([1.5, 1.0, 0.6, 0.3, 0.0, -0.5])
    drawn = draw(np.tile(scores, (draws, 1)), 3, 1.0, 0, [str(n) for n in range(draws)])
    target = np.exp(log_softmax(-scores[None]))[0]
    arm = drawn.columns.ravel()
    reward = (random.random(len(arm)) < MEANS[arm]).astype(float)
    log = make_log(reward, drawn.inclusion_probability.ravel(), target[arm], np.repeat(np.arange(draws), 3))
    assert log.num_draws == draws
    for estimate in (ips(log), snips(log)):
        half = (estimate.high - estimate.low) / 2
        assert abs(estimate.value - target @ MEANS) < 2 * half
    assert abs(mean_weight(log).value - 1) < 0.05


def test_under_an_ess_of_100_there_is_no_number() -> None:
    random = np.random.default_rng(3)
    arm, reward = one_log(random, 200)
    short = report(make_log(reward, LOGGING[arm], TARGET[arm]))
    assert short["ess"] < 100
    assert short["estimates"] is None
    assert "under 100" in short["not_estimable"]
    arm, reward = one_log(random, 4000)
    long = report(make_log(reward, LOGGING[arm], TARGET[arm]))
    assert long["ess"] > 100
    assert set(long["estimates"]) == {"ips", "snips"}


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, float("nan")])
def test_bad_arrays_name_the_row(bad: float) -> None:
    ones = np.ones(3)
    with pytest.raises(InputError, match="row 2: propensity"):
        make_log(ones, np.array([0.5, bad, 0.5]), ones)
    if bad != 0.0:
        with pytest.raises(InputError, match="row 3: target"):
            make_log(ones, ones, np.array([1.0, 1.0, bad]))
    with pytest.raises(InputError, match="row 1: reward"):
        make_log(np.array([np.inf, 1, 1]), ones, ones)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    arm, reward = one_log(np.random.default_rng(4), 5000)
    table = {
        "context": [f"c{n % 2}" for n in range(len(arm))],
        "arm": [f"a{n}" for n in arm],
        "reward": reward,
        "propensity": LOGGING[arm],
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    pacsv.write_csv(pa.table(table), tmp_path / "log.csv")
    return tmp_path / "log.parquet"


def test_files_give_what_arrays_give(log_file: Path, tmp_path: Path) -> None:
    names = [f"a{n}" for n in range(ARMS)]
    pacsv.write_csv(pa.table({"arm": names, "probability": TARGET}), tmp_path / "policy.csv")
    found = off_policy(log_file, policy=tmp_path / "policy.csv")
    assert found == off_policy(tmp_path / "log.csv", policy=tmp_path / "policy.csv")
    estimates = found["estimates"]
    for name in ("ips", "snips", "doubly_robust"):
        assert estimates[name]["low"] < TRUTH < estimates[name]["high"]
    log = pq.read_table(log_file)
    rows = TARGET[[int(a[1:]) for a in log["arm"].to_pylist()]]
    pq.write_table(pa.table({"probability": rows}), tmp_path / "rows.parquet")
    by_row = off_policy(log_file, policy=tmp_path / "rows.parquet")
    assert by_row["estimates"]["ips"] == estimates["ips"]
    assert "doubly_robust" not in by_row["estimates"]
    both = pa.table(
        {"context": ["c0"] * ARMS + ["c1"] * ARMS, "arm": names * 2, "probability": [*TARGET, *TARGET]}
    )
    pq.write_table(both, tmp_path / "contexts.parquet")
    by_context = off_policy(log_file, policy=tmp_path / "contexts.parquet")
    assert by_context["estimates"] == estimates
    part = off_policy(log_file, policy=tmp_path / "rows.parquet", where="context = 'c1'")
    assert part["rows"] == 2500
    chosen = np.arange(5000) % 2 == 1
    expected = ips(
        make_log(log["reward"].to_numpy()[chosen], log["propensity"].to_numpy()[chosen], rows[chosen])
    )
    assert part["estimates"]["ips"]["value"] == pytest.approx(expected.value)


@pytest.mark.parametrize(("cell", "shown"), [("0", "0"), ("nan", "nan"), ("1.2", "1.2"), ("", "no number")])
def test_a_bad_propensity_is_refused_with_file_and_row(tmp_path: Path, cell: str, shown: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"arm,reward,propensity\na,1,0.5\nb,0,{cell}\na,0,0.5\n")
    with pytest.raises(DataError) as caught:
        off_policy(path, uniform=True)
    assert str(path) in str(caught.value)
    assert caught.value.row == 2
    assert caught.value.column == "propensity"
    assert shown in str(caught.value)


def test_policies_that_do_not_fit_are_refused(log_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for text, message in (
        ("arm,probability\na0,0.5\na1,0.4\n", "add up to 0.9"),
        ("arm,probability\na0,0.5\na0,0.5\n", "twice"),
        ("arm,probability\na0,1.5\n", "0 to 1"),
        ("row,probability\n1,0.5\n", "1 rows for 5,000"),
        ("context,arm,probability\nc0,a0,1\n", "says nothing about this context"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            off_policy(log_file, policy=path)
    with pytest.raises(InputError, match="one of --policy"):
        off_policy(log_file)
    with pytest.raises(DataError, match="name it with --reward-column"):
        path.write_text("arm,propensity\na,0.5\n")
        off_policy(path, uniform=True)


def test_the_command_prints_numbers_or_that_there_are_none(log_file: Path) -> None:
    runner = click.testing.CliRunner()
    answered = runner.invoke(command, ["--log", str(log_file), "--uniform", "--json"])
    assert json.loads(answered.stdout)["estimates"]["snips"]["value"] == pytest.approx(MEANS.mean(), abs=0.05)
    pq.write_table(pq.read_table(log_file).slice(0, 50), log_file)
    refused = runner.invoke(command, ["--log", str(log_file), "--uniform"])
    assert "not estimable" in refused.stdout
    assert "snips" not in refused.stdout


def test_uniform_from_the_bts_log_agrees_with_the_log_of_uniform() -> None:
    log = SHARED / "open-bandit-sample/interactions.parquet"
    if not log.is_file():
        pytest.skip(f"{log} is not here")
    found = off_policy(log, uniform=True, where="policy = 'bts' and campaign = 'men'")
    truth = off_policy(log, uniform=True, where="policy = 'random' and campaign = 'men'")["logged"]
    assert found["ess"] == pytest.approx(655.7, abs=0.1)
    assert found["estimates"]["snips"]["low"] < truth["high"]
    assert found["estimates"]["snips"]["high"] > truth["low"]
    women = off_policy(log, uniform=True, where="policy = 'bts' and campaign = 'women'")
    assert women["estimates"] is None
