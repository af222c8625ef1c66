"""Verdicts on cells: both keys, what always fails, what cannot be tested, and what is said about it."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.runs import FakeRun, drawn
from xaibench.core.errors import MissingError, UsageError
from xaibench.results.gate import Gate, Rules, compare_sides
from xaibench.results.gate_reports import as_json, junit, markdown
from xaibench.results.sides import read_side, read_sides

NAN = float("nan")
BASE = {("cam", "hit"): drawn(1), ("cam", "drop"): drawn(2), ("random", "hit"): drawn(3)}
DROP = {"drop": "lower"}


def gate(tmp_path: Path, base: FakeRun | Path, new: FakeRun | Path, **rules: Any) -> Gate:
    paths = [
        side if isinstance(side, Path) else side.write(tmp_path / name) for name, side in (("base", base), ("new", new))
    ]
    return compare_sides(*read_sides(*paths), Rules(**rules))


def run(changes: dict[tuple[str, str], Any] | None = None, **facts: Any) -> FakeRun:
    return FakeRun({**BASE, **(changes or {})}, better=DROP, **facts)


def verdicts(found: Gate) -> dict[str, str]:
    return {f"{row.key.method} {row.key.metric}": row.verdict for row in found.rows}


def test_equal_runs_pass(tmp_path: Path) -> None:
    found = gate(tmp_path, run(), run())
    assert set(verdicts(found).values()) == {"same"}
    assert found.passed
    assert found.notes == []


@pytest.mark.parametrize(("metric", "shift", "verdict"), [
    ("hit", -0.05, "worse"), ("hit", 0.05, "better"), ("drop", 0.05, "worse"), ("drop", -0.05, "better"),
])  # fmt: skip
def test_both_directions(tmp_path: Path, metric: str, shift: float, verdict: str) -> None:
    changed = {("cam", metric): drawn(5, shift=shift)}
    found = gate(tmp_path, run(), run(changed))
    assert verdicts(found)[f"cam {metric}"] == verdict
    assert found.passed == (verdict == "better")
    assert not gate(tmp_path, tmp_path / "base", tmp_path / "new", fail_on="changed").passed
    assert gate(tmp_path, tmp_path / "base", tmp_path / "new", fail_on="none").passed


def test_a_significant_difference_below_the_minimum_effect_is_none(tmp_path: Path) -> None:
    base = np.array(drawn(1))
    found = gate(tmp_path, run(), run({("cam", "hit"): (base - 0.009).tolist()}))
    (row,) = [row for row in found.rows if row.key == ("fake", "net", "cam", "hit")]
    assert row.evidence is not None
    assert row.evidence.ci_high < 0
    assert row.p_adjusted < 1e-6
    assert row.verdict == "same"
    paths = tmp_path / "base", tmp_path / "new"
    assert verdicts(gate(tmp_path, *paths, minimum_effect=0.008))["cam hit"] == "worse"
    assert verdicts(gate(tmp_path, *paths, minimum_effect=0.0))["cam hit"] == "worse"


def test_a_large_difference_that_is_not_significant_is_none(tmp_path: Path) -> None:
    values = np.array(drawn(1, images=60))
    noise = np.random.default_rng(0).normal(0, 0.5, 60)
    found = gate(tmp_path, run(), run({("cam", "hit"): (values + noise - noise.mean() - 0.03).tolist()}))
    (row,) = [row for row in found.rows if row.key == ("fake", "net", "cam", "hit")]
    assert row.evidence is not None
    assert row.evidence.difference == pytest.approx(-0.03)
    assert row.verdict == "same"


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    shifted = {("cam", "hit"): (np.array(drawn(1)) - 5e-6).tolist()}
    found = gate(tmp_path, run(), run(shifted), minimum_effect=0.0)
    assert verdicts(found)["cam hit"] == "same"
    assert not math.isnan(found.rows[0].p_adjusted)


def test_holm_counts_the_cells_that_differ(tmp_path: Path) -> None:
    """A difference that is significant alone and not among forty; equal cells count for nothing."""
    values = np.array(drawn(1, images=8))
    one = {("m0", "hit"): (values - np.linspace(0.02, 0.05, 8)).tolist()}
    same = {(f"m{index}", "hit"): values.tolist() for index in range(40)}
    noisy = {key: (values + np.random.default_rng(i).normal(0, 0.02, 8)).tolist() for i, key in enumerate(same)}
    alone = gate(tmp_path, FakeRun(same), FakeRun({**same, **one}))
    assert alone.counts == {"worse": 1, "same": 39}
    crowded = gate(tmp_path, FakeRun(same), FakeRun({**noisy, **one}))
    assert verdicts(crowded)["m0 hit"] == "same"
    assert any("no difference can be significant" in note for note in crowded.notes)


def test_a_control_is_changed_and_not_worse(tmp_path: Path) -> None:
    changed = {("random", "hit"): drawn(5, shift=-0.1)}
    found = gate(tmp_path, run(), run(changed))
    assert verdicts(found)["random hit"] == "changed"
    assert found.passed
    paths = tmp_path / "base", tmp_path / "new"
    assert verdicts(gate(tmp_path, *paths, controls=True))["random hit"] == "worse"
    assert not gate(tmp_path, *paths, fail_on="changed").passed


def test_missing_and_new_cells(tmp_path: Path) -> None:
    fewer = FakeRun({("cam", "hit"): drawn(1), ("lime", "hit"): drawn(8)}, better=DROP)
    found = gate(tmp_path, run(), fewer)
    assert verdicts(found) == {"cam hit": "same", "cam drop": "missing", "random hit": "missing", "lime hit": "new"}
    assert {row.verdict for row in found.failing} == {"missing"}
    assert gate(tmp_path, tmp_path / "base", tmp_path / "new", allow_missing=True).passed


@pytest.mark.parametrize(("changes", "facts", "verdict", "reason"), [
    ({("cam", "hit"): "boom"}, {}, "undefined", "failed in NEW"),
    ({("cam", "hit"): [NAN] * 60}, {}, "undefined", "no value is defined in NEW"),
    ({("cam", "hit"): [NAN, *drawn(1)[1:]]}, {}, "undefined", "undefined in NEW and not in BASE: 1 value"),
    ({}, {"unreadable": ["x"]}, "undefined", "cannot be read in NEW: 1 more sample"),
    ({}, {"partial": True}, "marked", "partial in NEW only"),
    ({}, {"untrained": True, "partial": True}, "marked", "partial and untrained in NEW only"),
])  # fmt: skip
def test_what_always_fails(
    tmp_path: Path, changes: dict[tuple[str, str], Any], facts: dict[str, Any], verdict: str, reason: str
) -> None:
    found = gate(tmp_path, run(), run(changes, **facts))
    row = found.rows[0]
    assert (row.verdict, row.reason, row.fails) == (verdict, reason, True)
    assert gate(tmp_path, tmp_path / "base", tmp_path / "new", fail_on="none").passed
    back = gate(tmp_path, tmp_path / "new", tmp_path / "base")
    assert back.passed, "the other way round nothing is lost"


def test_undefined_on_both_sides_is_the_same(tmp_path: Path) -> None:
    nothing = {("cam", "hit"): [NAN] * 60}
    assert gate(tmp_path, run(nothing), run(nothing)).passed


@pytest.mark.parametrize("facts", [{"revision": "r2"}, {"images": [f"other{i}" for i in range(60)]}])
def test_other_data_is_not_paired(tmp_path: Path, facts: dict[str, Any]) -> None:
    found = gate(tmp_path, run(), run({("cam", "hit"): drawn(1, shift=-0.6)}, **facts))
    assert {row.evidence.basis for row in found.rows if row.evidence} == {"intervals"}
    assert verdicts(found)["cam hit"] == "worse"
    assert any("NEW has other data (revision, split or samples) in 3 of 3 cells" in note for note in found.notes)
    assert any("by two intervals, not image by image, because the samples are not the same" in n for n in found.notes)


def test_another_seed_is_said(tmp_path: Path) -> None:
    assert gate(tmp_path, run(), run(seed=3)).notes == ["NEW has another seed in 3 of 3 cells."]


def test_a_table_of_scores_is_compared_by_intervals(tmp_path: Path) -> None:
    run().write(tmp_path / "base")
    scores = tmp_path / "committed.scores.csv"
    scores.write_text((tmp_path / "base" / "scores.csv").read_text())
    small, large = run({("cam", "hit"): drawn(1, shift=-0.05)}), run({("cam", "hit"): drawn(1, shift=-0.6)})
    found = gate(tmp_path, scores, small)
    assert verdicts(found)["cam hit"] == "same", "unpaired, a small difference is not seen"
    assert any("a side has no records of them" in note for note in found.notes)
    assert any("The fingerprints differ in 1 of 3 cells" in note for note in found.notes)
    assert verdicts(gate(tmp_path, scores, large))["cam hit"] == "worse"


def test_two_intervals_against_the_formula_for_equal_halves(tmp_path: Path) -> None:
    """Symmetric intervals add as standard errors do, and the p value is that of the normal distribution."""
    base, new = run().write(tmp_path / "base"), run({("cam", "hit"): drawn(1, shift=-0.1)}).write(tmp_path / "new")
    for folder, value in ((base, 0.5), (new, 0.4)):
        lines = (folder / "scores.csv").read_text().splitlines()
        cells = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
        cells |= {"value": str(value), "ci_low": str(value - 0.03), "ci_high": str(value + 0.03)}
        (folder / "own.csv").write_text(f"{lines[0]}\n{','.join(cells.values())}\n")
    (row,) = gate(tmp_path, base / "own.csv", new / "own.csv").rows
    assert row.evidence is not None
    half = 0.03 * 2**0.5
    assert (row.evidence.ci_low, row.evidence.ci_high) == pytest.approx((-0.1 - half, -0.1 + half))
    z = 0.1 / (half / 1.959964)
    assert row.evidence.p == pytest.approx(math.erfc(z / 2**0.5), rel=1e-4)


def test_a_leaderboard_alone_is_compared_by_value(tmp_path: Path) -> None:
    run().write(tmp_path / "base")
    board = tmp_path / "board.csv"
    board.write_text((tmp_path / "base" / "leaderboard.csv").read_text())
    same = gate(tmp_path, board, run())
    assert same.passed
    assert any("values are compared, not tested" in note for note in same.notes)
    worse = gate(tmp_path, board, run({("cam", "hit"): drawn(1, shift=-0.05)}))
    assert worse.counts == {"worse": 1, "same": 3}, "an empty cell of a leaderboard has no value on either side"
    assert verdicts(worse)["cam hit"] == "worse"


def test_a_leaderboard_is_read_with_the_scores_beside_it(tmp_path: Path) -> None:
    run().write(tmp_path / "base")
    side = read_side(tmp_path / "base" / "leaderboard.csv")
    assert all(cell.stored is not None for cell in side.cells.values())
    board = tmp_path / "base" / "leaderboard.csv"
    board.write_text(board.read_text().replace("net,cam,0.", "net,cam,1."))
    with pytest.raises(UsageError, match=r"net / cam / hit is 1\.\d+, and 0\.\d+ in the scores beside it"):
        read_side(board)


def test_exact(tmp_path: Path) -> None:
    shifted = {("cam", "hit"): (np.array(drawn(1)) + 0.003).tolist(), ("random", "hit"): drawn(3, shift=0.1)}
    found = gate(tmp_path, run(), run(shifted), exact=0.001)
    assert verdicts(found) == {"cam hit": "changed", "cam drop": "same", "random hit": "changed"}
    assert len(found.failing) == 2
    assert "differs by 0.003, more than 0.00" in found.rows[0].reason
    assert verdicts(gate(tmp_path, tmp_path / "base", tmp_path / "new", exact=0.01))["cam hit"] == "same"
    assert not gate(tmp_path, run(), run({("cam", "hit"): [NAN] * 60}), exact=9.0).passed


def test_infinite_values(tmp_path: Path) -> None:
    """A ratio of counts may be infinite. Leaderboards do not say which way is better."""
    for name, value in (("infinite", "inf"), ("finite", "2.5")):
        (tmp_path / f"{name}.csv").write_text(f"model,method,hit\nnet,cam,{value}\n")
    infinite, finite = tmp_path / "infinite.csv", tmp_path / "finite.csv"
    assert gate(tmp_path, infinite, infinite).counts == {"same": 1}
    assert gate(tmp_path, infinite, finite).counts == {"changed": 1}
    assert gate(tmp_path, finite, infinite).counts == {"changed": 1}
    assert gate(tmp_path, finite, infinite, exact=0.1).counts == {"changed": 1}


def test_runs_of_a_parent_folder(tmp_path: Path) -> None:
    run().write(tmp_path / "one" / "a")
    run(suite="second", model="other").write(tmp_path / "one" / "b")
    side = read_side(tmp_path / "one")
    assert {key.model for key in side.cells} == {"fake / net", "second / other"}
    run().write(tmp_path / "two")
    found = gate(tmp_path, tmp_path / "one", tmp_path / "two")
    assert found.counts == {"same": 3, "missing": 3}
    dataclasses.replace(run({("cam", "hit"): drawn(9)})).write(tmp_path / "one" / "b")
    with pytest.raises(UsageError, match="two runs have different scores for fake / net / cam / hit"):
        read_side(tmp_path / "one")


def test_scores_of_an_older_version(tmp_path: Path) -> None:
    """Without the columns aggregate and minimum_effect: by intervals, and the other side's minimum effects."""
    run().write(tmp_path / "base")
    scores = tmp_path / "base" / "scores.csv"
    lines = [line.rsplit(",", 2)[0] for line in scores.read_text().splitlines()]
    scores.write_text("\n".join(lines) + "\n")
    found = gate(tmp_path, tmp_path / "base", run({("cam", "hit"): drawn(1, shift=-0.6)}))
    assert verdicts(found)["cam hit"] == "worse"
    assert found.rows[0].minimum_effect == 0.01
    assert any("cannot be paired" in note for note in found.notes)
    assert any("No side has minimum effects" in n for n in gate(tmp_path, scores, scores).notes)


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda folder: folder / "nothing", "no such file or directory"),
    (lambda folder: folder, "no scores.csv in it, nor in a folder in it"),
    (lambda folder: (folder / "cells").mkdir() or folder, "it has not ended; issue its command again"),
    (lambda folder: (folder / "a.csv").write_text("a,b\n1,2\n") and folder / "a.csv", "neither a table of scores"),
    (lambda folder: (folder / "a.csv").write_text("") or folder / "a.csv", "not a table"),
    (lambda folder: (folder / "a.csv").write_text("model,method,hit\nm,cam,x\n") and folder / "a.csv", "has numbers"),
    (lambda folder: (folder / "a.csv").write_text("model,method,metric,direction,value\n") and folder / "a.csv",
     "not a table of scores: the columns suite, dataset"),
])  # fmt: skip
def test_wrong_sides(tmp_path: Path, make: Any, sentence: str) -> None:
    with pytest.raises((UsageError, MissingError), match=sentence):
        read_side(make(tmp_path))


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    scores = run().write(tmp_path / "base") / "scores.csv"
    scores.write_text(scores.read_text().replace(",60,0,0,", ",sixty,0,0,", 1))
    with pytest.raises(UsageError, match="the row of fake / net / cam / hit: invalid literal"):
        read_side(scores)


def test_a_broken_cell_is_named(tmp_path: Path) -> None:
    run().write(tmp_path / "base")
    cell = next((tmp_path / "base" / "cells").rglob("*.parquet"))
    cell.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=f"{cell.name}: not a cell of records; remove it"):
        read_side(tmp_path / "base")


def test_nothing_in_common(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="have no cell in common"):
        gate(tmp_path, run(), run(model="other"))


@pytest.mark.parametrize("rules", [{"alpha": 0.0}, {"alpha": 1.5}, {"minimum_effect": -1.0}, {"exact": math.nan}])
def test_wrong_rules(rules: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="give a number"):
        Rules(**rules)  # type: ignore[arg-type]


def test_no_false_alarm_without_a_change(tmp_path: Path) -> None:
    """Twenty noisy repetitions of ten methods: alpha bounds the alarms of a table, and the effect most of the rest."""
    methods = [(f"m{index}", "hit") for index in range(10)]
    base = FakeRun({key: drawn(i, images=256) for i, key in enumerate(methods)}).write(tmp_path / "first")
    for repetition in range(1, 21):
        again = FakeRun({key: drawn(1000 * repetition + i, images=256) for i, key in enumerate(methods)})
        assert gate(tmp_path, base, again.write(tmp_path / f"again{repetition}"), controls=True).passed


# -- reports ------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(tmp_path: Path) -> Gate:
    base = run({("a|b", "hit"): drawn(7)})
    return gate(tmp_path, base, run({("a|b", "hit"): drawn(8, shift=-0.1), ("cam", "hit"): "boom"}))


def test_markdown(failed: Gate) -> None:
    text = markdown(failed)
    assert text.startswith("### Comparison failed: 2 cells\n")
    (row,) = [line for line in text.splitlines() if "**worse**" in line]
    assert "a\\|b | hit ↑" in row
    assert "**undefined**" in text
    assert "drop" not in text, "what is the same is counted, not listed"


def test_json_has_every_cell_and_no_nan(failed: Gate) -> None:
    found = json.loads(json.dumps(as_json(failed), allow_nan=False))
    assert found["passed"] is False
    assert len(found["rows"]) == 4
    worse = next(row for row in found["rows"] if row["verdict"] == "worse")
    assert worse["difference"] == pytest.approx(-0.1, abs=0.02)
    assert worse["basis"] == "paired"
    assert found["counts"] == {"same": 2, "worse": 1, "undefined": 1}


def test_junit(failed: Gate) -> None:
    root = ET.fromstring(junit(failed))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
    messages = [failure.get("message", "") for failure in root.iter("failure")]
    assert any(message.startswith("worse: 0.") for message in messages)
    assert any("failed in NEW" in message for message in messages)
