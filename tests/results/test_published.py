"""Published numbers: what the files hold, that they can be joined with runs, and how the two stand side by side."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.bibliography import BIBLIOGRAPHY, KEY
from tests.support.paths import DOCS
from xaibench.cli.app import main
from xaibench.core.errors import UsageError
from xaibench.results.leaderboard import COLUMNS as SCORE_COLUMNS
from xaibench.results.leaderboard import Leaderboard
from xaibench.results.published import PER_WHOLE, Comparison, convert, metric_units, published_files, read_published
from xaibench.suite import load_suite, shipped_suites

MINMAX = [f"minmax-cam-{data}" for data in ("planet", "coco17", "voc07", "voc12", "hpa")]
COUNTS = dict.fromkeys(MINMAX, 35) | {
    "transformer-perturbation": 24,
    "transformer-segmentation": 21,
    "vgatt-seeds": 26,
    "voc12-seeds": 4,
}
every = pytest.mark.parametrize("name", sorted(COUNTS))


def frame_of(name: str) -> pd.DataFrame:
    return pd.DataFrame(read_published(name))


def printed(name: str, method: str, metric: str) -> list[str]:
    return [number.value for number in read_published(name) if (number.method, number.metric) == (method, metric)]


# -- the files ------------------------------------------------------------------------------------------------------


def test_every_file_is_known() -> None:
    assert sorted(published_files()) == sorted(COUNTS)


@every
def test_the_form_of_a_file(name: str) -> None:
    table = frame_of(name)
    assert len(table) == COUNTS[name]
    assert set(table["suite"]) == {name}
    assert table["dataset"].nunique() == 1
    assert set(table["unit"]) <= set(PER_WHOLE)
    assert not table.duplicated(["method", "metric"]).any()
    assert table["value"].str.fullmatch(r"\d+(\.\d+)?").all()
    most = table["unit"].map(PER_WHOLE)
    assert (table["value"].astype(float).between(0, most)).all()
    for source in table["source"]:
        assert KEY.findall(source), f"{source!r} cites nothing"
        assert set(KEY.findall(source)) <= BIBLIOGRAPHY


@every
def test_every_number_meets_a_row_of_its_suite(name: str) -> None:
    """Those with a note meet none: they are of something that is not measured."""
    suite, numbers = load_suite(shipped_suites()[name]), read_published(name)
    methods = {method.label for method in suite.methods}
    metrics = {metric.label: metric.entry.unit for metric in suite.bound_metrics()}
    assert {number.dataset for number in numbers} == {suite.dataset.name}
    for number in numbers:
        measured = number.method in methods and number.metric in metrics
        assert measured == (not number.note), f"{number.method} / {number.metric}"
        if measured:
            convert(0.5, metrics[number.metric], number.unit)


@pytest.mark.parametrize(
    ("name", "method", "metric", "value"),
    [
        ("minmax-cam-planet", "cam", "increase_in_confidence", "6.09"),
        ("minmax-cam-planet", "d_minmax_cam", "f1_plus", "37.01"),
        ("minmax-cam-coco17", "score_cam", "average_drop", "9.62"),
        ("minmax-cam-coco17", "minmax_cam", "average_drop_of_others", "68.04"),
        ("minmax-cam-voc07", "grad_cam_pp", "average_retention", "14.04"),
        ("minmax-cam-voc07", "score_cam", "f1_minus", "2.20"),
        ("minmax-cam-voc12", "cam", "f1_minus", "3.89"),
        ("minmax-cam-voc12", "cam", "f1_plus", "21.25"),
        ("minmax-cam-voc12", "minmax_cam", "average_retention_of_others", "1.21"),
        ("minmax-cam-hpa", "d_minmax_cam", "average_drop", "64.21"),
        ("minmax-cam-hpa", "cam", "average_retention_of_others", "6.69"),
        ("transformer-perturbation", "attention_rollout", "negative_predicted", "53.1"),
        ("transformer-perturbation", "attention_grad_cam", "positive_target", "33.56"),
        ("transformer-perturbation", "full_lrp", "positive_predicted", "41.94"),
        ("transformer-perturbation", "partial_lrp", "negative_target", "50.49"),
        ("transformer-perturbation", "transformer_lrp", "positive_target", "16.04"),
        ("transformer-perturbation", "transformer_lrp@start0", "positive_target", "16.38"),
        ("transformer-segmentation", "raw_attention", "miou", "46.37"),
        ("transformer-segmentation", "full_lrp", "pixel_accuracy", "51.09"),
        ("transformer-segmentation", "transformer_lrp@start0", "miou", "62.01"),
        ("vgatt-seeds", "vgatt@conv4", "area_ratio_k0.1", "60"),
        ("vgatt-seeds", "vgatt@last", "pixel_accuracy_k0.25", "83.2"),
        ("vgatt-seeds", "vgatt@last", "deeplab_miou_k0.15", "0.385"),
        ("vgatt-seeds", "grad_cam@conv5", "deeplab_miou", "0.362"),
        ("voc12-seeds", "cam", "seed_miou", "46.6"),
        ("voc12-seeds", "transformer_lrp@start0+affinitynet", "seed_miou", "50.9"),
    ],
)
def test_spot_values(name: str, method: str, metric: str, value: str) -> None:
    assert printed(name, method, metric) == [value]


@pytest.mark.parametrize("method", ["attention_rollout", "raw_attention"])
@pytest.mark.parametrize("polarity", ["positive", "negative"])
def test_maps_without_a_class_have_no_printed_target(method: str, polarity: str) -> None:
    assert printed("transformer-perturbation", method, f"{polarity}_target") == []


@pytest.mark.parametrize("name", MINMAX)
def test_no_mean_of_harmonic_means_exceeds_that_of_the_means(name: str) -> None:
    """The harmonic mean is concave: a slip in copying F1 or its halves shows (half a unit of the last digit is allowed)."""
    values = frame_of(name).astype({"value": float}).pivot(index="method", columns="metric", values="value")
    for f1, one, other in (
        ("f1_plus", "average_retention", "average_drop_of_others"),
        ("f1_minus", "average_drop", "average_retention_of_others"),
    ):
        of_means = 2 * values[one] * values[other] / (values[one] + values[other])
        assert (values[f1] <= of_means + 0.015).all(), f"{f1}\n{values[f1] - of_means}"


@every
def test_the_page_of_the_docs_has_every_number(name: str) -> None:
    page = (DOCS / "paper_suites.md").read_text()
    words = set(re.findall(r"(?<![\d.])\d+(?:\.\d+)?", page))
    assert {number.value for number in read_published(name)} <= words


# -- side by side ---------------------------------------------------------------------------------------------------

NAME = "minmax-cam-voc07"


def scores(**changes: Any) -> pd.DataFrame:
    rows = []
    for method, control in (("cam", False), ("minmax_cam", False), ("random", True)):
        for metric, direction, value in (("average_drop", "lower", 0.5), ("f1_plus", "higher", 0.2)):
            rows.append(
                {
                    **dict.fromkeys(SCORE_COLUMNS, 0),
                    "suite": NAME,
                    "dataset": "voc07",
                    "model": "net",
                    "method": method,
                    "metric": metric,
                    "direction": direction,
                    "value": value,
                    "partial": False,
                    "untrained": False,
                    "control": control,
                    **changes,
                }
            )
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def compare(frame: pd.DataFrame, name: str = NAME) -> Comparison:
    return Comparison(name, Leaderboard(frame))


def test_fractions_meet_percent() -> None:
    table = compare(scores()).table().set_index(["method", "metric"])
    assert dict(table.loc[("cam", "average_drop")]) == {
        "model": "net",
        "unit": "percent",
        "published": "25.24",
        "measured": "50.00",
        "difference": "+24.76",
        "source": "david2022",
    }
    assert table.loc[("minmax_cam", "f1_plus"), "difference"] == "+0.15"


def test_one_sided_rows_have_an_empty_other_side() -> None:
    table = compare(scores()).table().set_index(["method", "metric"])
    assert len(table) == 35 + 2
    published = table.loc[("score_cam", "f1_plus")]
    assert (published["published"], published["measured"], published["difference"]) == ("6.89", "", "")
    measured = table.loc[("random", "average_drop")]
    assert (measured["published"], measured["measured"], measured["difference"]) == ("", "50.00", "")


def test_what_is_not_measured_stands_alone_and_says_why() -> None:
    frame = scores(suite="vgatt-seeds", dataset="voc12", method="vgatt@conv4", metric="deeplab_miou_k0.1")[:1]
    table = compare(frame, "vgatt-seeds").table()
    lines = table[(table["method"] == "vgatt@conv4") & (table["metric"] == "deeplab_miou_k0.1")]
    assert list(lines["published"]) == ["0.291", ""]
    assert list(lines["measured"]) == ["", "0.5000"]
    assert "does not train" in lines["note"].iloc[0]


def test_every_model_that_measured_a_number_has_a_row() -> None:
    frame = pd.concat([scores(), scores(model="other", value=0.25)])
    table = compare(frame).table().set_index(["method", "metric"])
    assert list(table.loc[[("cam", "f1_plus")], "model"]) == ["net", "other"]
    assert list(table.loc[[("score_cam", "f1_plus")], "model"]) == [""]


def test_an_undefined_value_is_neither_empty_nor_zero() -> None:
    table = compare(scores(value=float("nan"))).table().set_index(["method", "metric"])
    assert (table.loc[("cam", "f1_plus"), "measured"], table.loc[("cam", "f1_plus"), "difference"]) == ("nan", "+nan")


def test_notes_say_what_the_two_sides_do_not_share() -> None:
    assert compare(scores()).notes == []
    notes = " ".join(compare(scores(partial=True, untrained=True, suite="mine", dataset="shapes")).notes)
    for words in ("mean nothing", "Partial run", "The run is of mine", "Measured on shapes, published on voc07"):
        assert words in notes


def test_csv_and_markdown() -> None:
    comparison = compare(scores(untrained=True))
    read = pd.read_csv(io.StringIO(comparison.csv()), dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(read, comparison.table())
    text = comparison.markdown()
    assert text.startswith("# minmax-cam-voc07: published and measured\n\n> **Note.** net: untrained")
    assert "| net | cam | average_drop | percent | 25.24 | 50.00 | +24.76 | david2022 |" in text
    assert "|  | score_cam | f1_plus | percent | 6.89 | – | – | david2022 |".replace("|  |", "| – |") in text
    (table,) = comparison.tables()
    assert table.row_count == len(read)


def test_units_that_do_not_compare_are_refused() -> None:
    assert (convert(0.5, "fraction", "percent"), convert(50, "percent", "fraction")) == (50, 0.5)
    assert convert(3, "logits", "logits") == 3
    with pytest.raises(
        UsageError, match=r"'logits' does not compare with one in 'percent'; allowed: fraction, percent"
    ):
        convert(3, "logits", "percent")
    assert metric_units(NAME)["f1_plus"] == "fraction"


# -- the command ----------------------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["xaibench", "leaderboard", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    scores(partial=True).to_csv(run / "scores.csv", index=False)
    assert call(monkeypatch, "--published", NAME, run) == 0
    captured = capsys.readouterr()
    assert re.search(r"net\s+.*cam\s+.*average_drop\s+.*percent\s+.*25\.24\s+.*50\.00\s+.*\+24\.76", captured.out)
    assert "Partial run" in captured.err
    assert call(monkeypatch, "--published", NAME, run, "--format", "csv") == 0
    text = capsys.readouterr().out
    assert text == compare(pd.read_csv(run / "scores.csv")).csv()
    assert call(monkeypatch, "--published", NAME, run, "-o", tmp_path / "both.csv") == 0
    assert (tmp_path / "both.csv").read_text() == text
    assert call(monkeypatch, "--published", NAME, run, "-o", tmp_path / "both.md") == 0
    assert "| net | cam | average_drop | percent | 25.24 |" in (tmp_path / "both.md").read_text()
    assert capsys.readouterr().out == ""


def test_an_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    scores().to_csv(path, index=False)
    assert call(monkeypatch, "--published", "minmax-cam-voc70", path) == 2
    assert "unknown published table 'minmax-cam-voc70'; did you mean 'minmax-cam-voc07'?" in capsys.readouterr().err
    assert call(monkeypatch, "--published", NAME, tmp_path / "absent") == 2
    assert "no scores.csv" in capsys.readouterr().err
