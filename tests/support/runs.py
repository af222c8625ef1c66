"""Run directories of given values: records and a table of scores, without models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xaibench.results.leaderboard import Leaderboard
from xaibench.results.records import Cell, Records, error_row, rows_of
from xaibench.results.scores import ScoredCell, score_table

MINIMUM_EFFECT = 0.01


@dataclass
class FakeRun:
    """What a run directory is made of. `values` [images] by method and metric; NaN is undefined, "failed" has no cell.

    Attributes:
        images: ids; by default 0, 1, ...
        unreadable: ids of images that could not be read
    """

    values: Mapping[tuple[str, str], Sequence[float] | str]
    model: str = "net"
    suite: str = "fake"
    images: Sequence[str] | None = None
    revision: str = "r1"
    seed: int = 0
    better: Mapping[str, str] = field(default_factory=dict)
    controls: Sequence[str] = ("random",)
    partial: bool = False
    untrained: bool = False
    unreadable: Sequence[str] = ()
    minimum_effect: float = MINIMUM_EFFECT

    def write(self, directory: Path) -> Path:
        """Write cells, scores.csv and leaderboard.csv. Returns the directory."""
        records, scored = Records(directory), []
        for (method, metric), values in self.values.items():
            cell = self._cell(method, metric, [] if isinstance(values, str) else values)
            if isinstance(values, str):
                records.write_error(cell, values, "")
            else:
                rows = rows_of(self._ids(values), [0] * len(values), list(values), [None] * len(values), 0.1)
                records.write(cell, 0, 1, [*rows, *map(error_row, self.unreadable)])
            scored.append(ScoredCell(cell, "mean", self.seed, self._facts(method, metric)))
        scores = score_table(records, scored)
        scores.to_csv(directory / "scores.csv", index=False)
        (directory / "leaderboard.csv").write_text(Leaderboard(scores).csv())
        return directory

    def _ids(self, values: Sequence[float]) -> list[str]:
        return list(self.images) if self.images is not None else [f"{index:04d}" for index in range(len(values))]

    def _cell(self, method: str, metric: str, values: Sequence[float]) -> Cell:
        identity = {
            "dataset": {"name": "fake", "revision": self.revision, "ids": ",".join(self._ids(values))},
            "model": {"name": self.model, "weights": "w"},
            "seed": self.seed,
            "precision": "float32",
            "method": {"name": method},
            "metric": {"name": metric},
            "values": [float(value) for value in values],
        }
        return Cell("fake", self.model, method, metric, identity)

    def _facts(self, method: str, metric: str) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "split": "test",
            "version": "0",
            "partial": self.partial,
            "untrained": self.untrained,
            "control": method in self.controls,
            "direction": self.better.get(metric, "higher"),
            "minimum_effect": self.minimum_effect,
        }


def drawn(seed: int, images: int = 60, shift: float = 0.0) -> list[float]:
    """Values of images around 0.5; the same images are hard for every seed."""
    hard = np.random.default_rng(99).random(images)
    noise = np.random.default_rng(seed).normal(0, 0.02, images)
    return (hard + noise + shift).tolist()
