"""What users' records and tables rest on, written out: fingerprints of cells, and the files of a run with their columns.

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
    f"{FOLDER}/average_drop@3e009f51.parquet": "3e009f5155d6ffc02ddfe2fd6f8dc60f5ae9bc2ab44c5d8547c7cf5932fc4b59",
    f"{FOLDER}/pointing@99d5ae66.parquet": "99d5ae662cc8f7151e72f4cf380c25f05c9c2154174e89309c8b74c4a737e162",
}
RECORD = [
    "dataset", "model", "method", "metric", "sample_id", "label", "value", "status", "seconds", "parts",
]  # fmt: skip
SCORES = [
    "suite", "dataset", "split", "model", "method", "metric", "direction", "n", "n_undefined", "n_error", "value", "std",
    "stderr", "ci_low", "ci_high", "seconds_per_sample", "fingerprint", "version", "partial", "untrained", "control",
]  # fmt: skip
ATTEMPT = {
    "argv", "started", "suite", "seed", "device", "batch_size", "workers", "limit", "host", "platform", "versions", "git",
    "exit_code", "seconds", "computed_parts", "failed", "bad_samples",
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
