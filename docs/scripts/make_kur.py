"""Draw and tabulate what Kernel Usage Regularization does to the bundled CNN, for docs/kur.md.

    python docs/scripts/make_kur.py          # seconds

Reads leaderboards/shapes.scores.csv and the bundled models; trains nothing. docs/images/kur-correlations.png shows Pearson
correlations between the weight vectors of the classes in the last layer (of the regularised model: the effective kernel).
"""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns

import xaibench
from pages import DOCS, IMAGES, LEADERBOARDS, replace_generated_part
from xaibench.data.datasets.shapes import PARTNER
from xaibench.models import bundled
from xaibench.results.leaderboard import ARROWS

PAGE, FIGURE = DOCS / "kur.md", IMAGES / "kur-correlations.png"
MODELS = "shapes-resnet", "shapes-resnet-kur"
METHODS = "cam", "grad_cam_pp", "minmax_cam", "d_minmax_cam"
METRICS = "f1_minus", "f1_plus", "average_drop_of_others", "average_retention_of_others", "energy_pointing_game"


def correlations(model: str) -> npt.NDArray[np.float64]:
    """[L, L] between the rows of the head's matrix."""
    return np.corrcoef(xaibench.load_classifier(model).head_weight.double().numpy())


def words(matrix: npt.NDArray[np.float64]) -> str:
    """Mean correlation of classes that often meet in an image, and of the rest."""
    partners = np.zeros_like(matrix, bool)
    for label, partner in PARTNER.items():
        partners[label, partner] = True
    rest = ~partners & ~np.eye(len(matrix), dtype=bool)
    return f"mean r of partners {matrix[partners].mean():.3f}, of others {matrix[rest].mean():.3f}"


def draw() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    classes = bundled.card(MODELS[0]).classes
    for axis, model in zip(axes, MODELS, strict=True):
        matrix = correlations(model)
        sns.heatmap(
            matrix,
            vmin=-1,
            vmax=1,
            cmap="vlag",
            annot=True,
            fmt=".2f",
            annot_kws={"size": 8},
            square=True,
            ax=axis,
            xticklabels=classes,
            yticklabels=classes,
            cbar=model == MODELS[-1],
        )
        axis.set_title(f"{model}: {words(matrix)}", fontsize=9.5)
        axis.tick_params(axis="x", rotation=45)
    figure.suptitle("Correlation between the weight vectors of classes", fontsize=11)
    figure.savefig(FIGURE, dpi=110, facecolor="white")
    plt.close(figure)


def table() -> str:
    scores = pd.read_csv(LEADERBOARDS / "shapes.scores.csv")
    directions = dict(zip(scores["metric"], scores["direction"], strict=True))
    lines = ["| model | mAP | method | " + " | ".join(f"{m} {ARROWS[directions[m]]}" for m in METRICS) + " |"]
    lines.append("|---|---:|---|" + "---:|" * len(METRICS))
    for method in METHODS:
        for model in MODELS:
            rows = scores.query("model == @model and method == @method").set_index("metric")
            cells = [f"{rows.value[m]:.4f} [{rows.ci_low[m]:.3f}, {rows.ci_high[m]:.3f}]" for m in METRICS]
            lines.append(
                f"| {model} | {bundled.facts(model)['mean_average_precision']:.4f} | {method} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    draw()
    replace_generated_part(PAGE, "make_kur.py", table())
