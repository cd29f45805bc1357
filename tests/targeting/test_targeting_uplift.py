"""What contact changed: true effects are found again, and nothing is claimed where nobody was held out."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_targeting_run import write
from test_targeting_shards import many_users

from duality.cli.target import target as command
from duality.errors import DamageError, DataError, InputError
from duality.targeting import uplift
from duality.targeting.run import target
from duality.targeting.uplift import Arm, effect, measure

CAMPAIGNS = """
[[campaign]]
id = "a"
items = ["a"]
size = 3000
holdout = {fraction = 0.3}
[[campaign]]
id = "b"
items = ["b,c"]
size = 1000
"""


@pytest.fixture(scope="module")
def audience(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uplift")
    target(many_users(8_000), write(folder / "c.toml", CAMPAIGNS), folder / "out")
    return folder / "out"


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplift, "RESAMPLES", 250)


def drawn(rng: np.random.Generator, users: int, base: float, gain: np.ndarray, held: float = 0.3) -> Arm:
    treated = rng.random(users) >= held
    return Arm(treated, (rng.random(users) < base + gain * treated).astype(float))


def test_a_true_effect_lies_in_its_interval() -> None:
    """Coverage of 95% intervals over many small experiments."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        found = effect(drawn(rng, 400, 0.2, np.full(400, 0.1)))["effect"]
        inside += found["low"] <= 0.1 <= found["high"]
    assert 88 <= inside <= 100


def test_qini_is_above_zero_only_where_the_best_gain_most() -> None:
    rng, n = np.random.default_rng(1), 20_000
    falling = np.linspace(0.3, 0.0, n)
    alike, sorted_, reversed_ = (
        effect(drawn(rng, n, 0.2, gain))["qini"] for gain in (np.full(n, 0.15), falling, falling[::-1])
    )
    assert alike["low"] < 0 < alike["high"]
    assert sorted_["low"] > 0
    assert reversed_["high"] < 0
    # The area between gain x (s - s^2 / 2) and its line is gain / 12 a treated user, gain = .3.
    assert sorted_["value"] == pytest.approx(0.3 / 12, abs=0.008)


def test_a_run_is_measured(audience: Path, tmp_path: Path) -> None:
    table = pq.read_table(audience / "audience.parquet").to_pylist()
    arms = {row["user"]: row["arm"] for row in table if row["campaign"] == "a"}
    bought = [user for place, (user, arm) in enumerate(arms.items()) if arm == "treated" or place % 2]
    file = tmp_path / "sales.csv"
    write(file, "user\n" + "\n".join([*bought, bought[0], "stranger"]) + "\n")
    found = measure(audience, file)
    assert (found["outcomes"], found["others"]) == (len(bought) + 1, 1)
    a, b = found["campaigns"]
    held = [user for user, arm in arms.items() if arm == "holdout"]
    rate = np.mean([user in set(bought) for user in held])
    assert (a["rate_treated"], a["rate_holdout"]) == (1.0, pytest.approx(rate))
    assert a["effect"]["value"] == pytest.approx(1 - rate)
    assert a["incremental"]["value"] == pytest.approx((1 - rate) * a["treated"])
    assert a["curve"][-1]["effect"] == pytest.approx((1 - rate) * a["treated"])
    assert b["identifiable"] is False
    assert "not identifiable" in b["why"]
    assert "effect" not in b
    assert measure(audience, file) == found


def test_values_are_summed_per_campaign(audience: Path, tmp_path: Path) -> None:
    row = next(r for r in pq.read_table(audience / "audience.parquet").to_pylist() if r["arm"] == "treated")
    table = pa.table({"user": [row["user"]] * 3, "campaign": ["a", "a", "b"], "value": [2.0, 3.5, 100.0]})
    pq.write_table(table, tmp_path / "sales.parquet")
    a = measure(audience, tmp_path / "sales.parquet")["campaigns"][0]
    assert a["rate_treated"] == pytest.approx(5.5 / a["treated"])


def test_the_command_says_what_cannot_be_known(audience: Path, tmp_path: Path) -> None:
    write(tmp_path / "sales.csv", "user\nu00001\n")
    asked = ["measure", "--audience", str(audience), "--outcomes", str(tmp_path / "sales.csv")]
    said = click.testing.CliRunner().invoke(command, asked, catch_exceptions=False).output
    assert "b: 1,000 treated, 0 held out: not identifiable" in said
    assert "Qini" in said
    told = json.loads(click.testing.CliRunner().invoke(command, [*asked, "--json"]).output)
    assert [campaign["identifiable"] for campaign in told["campaigns"]] == [True, False]


def test_bad_input_is_named(audience: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no outcomes at"):
        measure(audience, tmp_path / "none.csv")
    with pytest.raises(DataError, match="row 2, column 'value'"):
        measure(audience, write(tmp_path / "bad.csv", "user,value\nu1,1.0\nu2,inf\n"))
    with pytest.raises(InputError, match="no audience at"):
        measure(tmp_path, tmp_path / "bad.csv")
    damaged = tmp_path / "out"
    damaged.mkdir()
    for name in ("manifest.json", "audience.parquet"):
        (damaged / name).write_bytes((audience / name).read_bytes())
    pq.write_table(pq.read_table(damaged / "audience.parquet").slice(1), damaged / "audience.parquet")
    with pytest.raises(DamageError, match="not what the run wrote"):
        measure(damaged, tmp_path / "bad.csv")
