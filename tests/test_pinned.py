"""Fingerprints of cells, files of a run and their columns, written out: users' records and tables rest on them.

A change here makes records of old runs stale, or breaks readers of a run's files. It must be meant, and be in the
CHANGELOG.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import xaibench

SUITE = """\
name: pinned
dataset: {name: shapes, samples: 2}
models: [shapes-resnet]
explain: present
methods:
  - {name: grad_cam, layer: layer3, as: deep}
metrics:
  - average_drop
  - {name: pointing_game, tolerance: 2, explain: detected, as: pointing}
"""

FOLDER = "cells/shapes/shapes-resnet/deep@a6d387b6"
CELLS = {
    f"{FOLDER}/average_drop@32c1b55b.parquet": "32c1b55b1e49eb0b96bdf0b97de0eec2555c00c0f12b0c79185995b7cb3a789f",
    f"{FOLDER}/pointing@9ef51e59.parquet": "9ef51e592df22eb03d414b547ff3f555cfe4f004f779c284fc50edb8eaafb1b7",
}
RECORD = [
    "dataset", "model", "method", "metric", "sample_id", "label", "value", "status", "seconds", "statistics",
]  # fmt: skip
SCORES = [
    "suite", "dataset", "split", "model", "method", "metric", "direction", "n", "n_undefined", "n_error", "value", "std",
    "stderr", "ci_low", "ci_high", "seconds_per_sample", "fingerprint", "version", "partial", "untrained", "control",
    "aggregate", "minimum_effect",
]  # fmt: skip
ATTEMPT = {
    "argv", "started", "suite", "suite_file", "seed", "device", "batch_size", "workers", "limit", "host", "platform",
    "versions", "git", "exit_code", "seconds", "computed_parts", "failed", "bad_samples",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pinned")
    (folder / "pinned.yaml").write_text(SUITE)
    xaibench.run(folder / "pinned.yaml", out=folder / "run")
    return folder / "run"


def test_cells_and_their_fingerprints(run: Path) -> None:
    found = {
        str(path.relative_to(run)): pq.read_schema(path).metadata[b"xaibench.fingerprint"].decode()
        for path in run.glob("cells/**/*")
        if path.is_file()
    }
    assert found == CELLS


def test_files_of_a_run(run: Path) -> None:
    top = sorted(path.name for path in run.iterdir())
    assert top == [
        "attempts",
        "cells",
        "leaderboard.csv",
        "leaderboard.md",
        "scores.csv",
        "scores.parquet",
        "suite.resolved.json",
        "suite.yaml",
    ]
    assert (run / "suite.yaml").read_text() == SUITE
    (attempt,) = (run / "attempts").glob("*.json")
    assert json.loads(attempt.read_text()).keys() == ATTEMPT


def test_columns(run: Path) -> None:
    assert [pq.read_schema(run / path).names for path in CELLS] == [RECORD, RECORD]
    for name in ("scores.csv", "scores.parquet"):
        table = pd.read_csv(run / name) if name.endswith("csv") else pd.read_parquet(run / name)
        assert list(table.columns) == SCORES
    assert (run / "leaderboard.csv").read_text().splitlines()[0] == "model,method,average_drop,pointing"
