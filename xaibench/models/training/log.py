"""The log of a training: a row per epoch, as CSV while it runs and as curves afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from xaibench.core.atomic_files import write_text

if TYPE_CHECKING:
    from xaibench.models.training.fit import Epoch


class Log:
    """`rows` in a CSV file: epoch, step, loss, learning_rate, mAP, F1, F2, seconds, then `AP <class>` of each class."""

    def __init__(self, path: Path, classes: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        self.path, self.classes, self.rows = path, classes, rows

    def add(self, epoch: Epoch) -> None:
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


def draw_curves(log: Path, picture: Path) -> Path:
    """Loss, and mAP, F1 and F2 over the steps of a log, as PNG or any format of matplotlib."""
    import matplotlib.pyplot as plt
    import seaborn

    rows = pd.read_csv(log)
    with seaborn.axes_style("whitegrid"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    seaborn.lineplot(rows, x="step", y="loss", ax=left, marker="o", color="#4c72b0")
    left.set(title="Training loss (mean of each epoch)", ylim=(0, None))
    scores = rows.melt("step", ["mAP", "F1", "F2"], var_name="score", value_name="value")
    seaborn.lineplot(scores, x="step", y="value", hue="score", ax=right, marker="o", palette="deep")
    right.set(title="On the evaluation split (F at probability > 0.5)", ylabel="", ylim=(0, 1))
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return picture
