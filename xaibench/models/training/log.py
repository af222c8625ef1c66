"""The log of a training: a row per epoch, as CSV while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xaibench.core.atomic_files import write_text
from xaibench.models.training.quality import Quality


@dataclass(frozen=True)
class Epoch:
    """What one epoch reached: its number from 1, steps so far, mean training loss, last learning rate, quality."""

    number: int
    step: int
    loss: float
    learning_rate: float
    seconds: float
    quality: Quality


class Log:
    """`rows` in a CSV file: epoch, step, loss, learning_rate, mAP, F1, F2, seconds, then `AP <class>` of each class."""

    def __init__(self, path: Path, classes: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        self.path, self.classes, self.rows = path, classes, rows

    def add(self, epoch: Epoch) -> None:
        """Append a row, and rewrite the file."""
        quality = epoch.quality
        self.rows.append(
            {
                "epoch": epoch.number,
                "step": epoch.step,
                "loss": epoch.loss,
                "learning_rate": epoch.learning_rate,
                "mAP": quality.mean("average_precision"),
                "F1": quality.mean("f1"),
                "F2": quality.mean("f2"),
                "seconds": round(epoch.seconds, 2),
                **{f"AP {c}": float(v) for c, v in zip(self.classes, quality.average_precision, strict=True)},
            }
        )
        write_text(self.path, pd.DataFrame(self.rows).to_csv(index=False, lineterminator="\n"))
