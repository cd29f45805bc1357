"""Atomic files, strict configuration, progress lines, errors on one line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from duality.artifacts import atomic_file, atomic_folder, checksum, fingerprint, read_json, write_json
from duality.cli.common import csv_ids
from duality.config import Config, read_toml, validate, with_overrides
from duality.errors import ConfigError, DamageError, DataError, FilterError, InputError, suggestion
from duality.runtime import Progress, num_threads


class Inner(Config):
    epochs: int = 3


class Outer(Config):
    train: Inner = Inner()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with atomic_file(target) as temporary:
        temporary.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "new"


def test_a_failed_folder_leaves_the_old_one_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "d"
    with atomic_folder(target, marker="m") as temporary:
        (temporary / "m").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target, marker="m") as temporary:
        (temporary / "m").write_text("2")
        raise RuntimeError
    assert (target / "m").read_text() == "1"
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_text("x")
    with pytest.raises(InputError, match="holds no m"), atomic_folder(foreign, marker="m"):
        pass
    assert (foreign / "cat.jpg").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "photos"]


def test_json_round_trip_and_its_refusals(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ü": [1, None]})
    assert read_json(tmp_path / "x.json", what="thing", make="make") == {"ü": [1, None]}
    with pytest.raises(InputError, match=r"no thing at .*: make one with `make`"):
        read_json(tmp_path / "none.json", what="thing", make="make")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DamageError, match="not readable JSON"):
        read_json(tmp_path / "x.json", what="thing", make="make")


def test_fingerprints_tell_parts_apart(tmp_path: Path) -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("ab") == fingerprint(b"ab")
    (tmp_path / "f").write_bytes(b"abc")
    assert checksum(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_overrides_are_typed_and_nested() -> None:
    values = with_overrides({"train": {"epochs": 1}}, ["train.epochs=5"])
    assert validate(Outer, values, source="s").train.epochs == 5
    assert with_overrides({}, ["a.b=x y", "a.c=[1, 2]", "a.d=true"]) == {
        "a": {"b": "x y", "c": [1, 2], "d": True}
    }
    with pytest.raises(ConfigError, match="is a value, not a section"):
        with_overrides({"a": 1}, ["a.b=2"])
    with pytest.raises(ConfigError, match=r"s: train.epoch: unknown key \(did you mean epochs\?\)"):
        validate(Outer, {"train": {"epoch": 1}}, source="s")
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(Path("nowhere.toml"))


def test_messages_name_the_place() -> None:
    assert str(DataError("bad", file="f.csv", row=3, column="c")) == "f.csv, row 3, column 'c': bad"
    assert str(FilterError("bad", expression="a = ", position=4)) == "filter, position 5: bad in: a = "
    assert suggestion("recal", ["recall", "ndcg"]) == " (did you mean recall?)"
    assert suggestion("zzz", ["recall"]) == ""
    assert InputError("x").exit_code == 2


def test_ids_on_the_command_line_are_csv() -> None:
    assert csv_ids('a, b,"c,d",') == ["a", "b", "c,d"]


def test_progress_is_plain_lines_in_a_log_and_silent_when_quick() -> None:
    stream = io.StringIO()
    bar = Progress(10, "work", unit="rows", stream=stream)
    bar.advance(5)
    bar.close()
    assert stream.getvalue() == ""
    slow = Progress(10, "work", unit="rows", stream=stream, quiet_seconds=0.0)
    slow.advance(5, note="loss 1")
    text = stream.getvalue()
    assert text.endswith("\n")
    assert "\r" not in text
    for part in ("work", "50%", "rows/s", "s left", "loss 1"):
        assert part in text


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "none")
    assert num_threads() >= 1
