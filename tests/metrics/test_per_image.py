"""Metrics per image through the runner: an image without a label counts, and batch size changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import xaibench
from tests.support.networks import any_classifier
from xaibench.core.registry import PER_IMAGE
from xaibench.data.preprocess import Preprocess

LIMIT = 6
SUITE = """
name: per-image
dataset: {name: shapes}
models: [resnet18]
methods: [saliency]
metrics:
  - seed_miou
  - seed_miou_k
  - average_precision
  - {name: adcc, as: explained_again}
"""


def classifier(*_: Any) -> xaibench.Classifier:
    """Untrained, its threshold such that some images have no detected label."""
    found = any_classifier(labels=8)
    found.preprocess, found.threshold = Preprocess(size=(24, 32)), 0.998
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("per-image")
    suite = folder / "per-image.yaml"
    suite.write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xaibench.runner.benchmark.open_model", classifier)
        return [xaibench.run(suite, out=folder / str(size), limit=LIMIT, batch_size=size).directory for size in (1, 4)]


def records(run: Path) -> pd.DataFrame:
    frame = pd.concat([pd.read_parquet(path) for path in run.rglob("cells/**/*.parquet")])
    return frame.sort_values(["metric", "sample_id", "label"]).reset_index(drop=True)


def test_every_image_has_a_row(runs: list[Path]) -> None:
    for run in runs:
        frame = records(run)
        seeds = frame[frame["metric"] == "seed_miou"]
        assert len(seeds) == LIMIT
        assert set(seeds["label"]) == {PER_IMAGE}
        assert (seeds["status"] == "ok").all()
        explained = frame[frame["metric"] == "average_precision"]["sample_id"].nunique()
        assert 0 < explained < LIMIT, "some images have no detected label"


def test_batch_size_changes_nothing(runs: list[Path]) -> None:
    columns = ["metric", "sample_id", "label", "status", "value"]
    pd.testing.assert_frame_equal(records(runs[0])[columns], records(runs[1])[columns], rtol=1e-5)
    one, four = (pd.read_csv(run / "scores.csv").set_index("metric") for run in runs)
    for column in ("value", "ci_low", "ci_high", "n"):
        pd.testing.assert_series_equal(one[column], four[column], rtol=1e-5)
    assert one.loc["seed_miou", "n"] == LIMIT
    assert one.loc["explained_again", "value"] > 0, "the runner hands the method to its metrics"
