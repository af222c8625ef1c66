"""Draw the pictures of README and docs/usage.md: a leaderboard, and maps of one test image.

    python docs/scripts/make_figures.py      # half a minute

docs/images/leaderboard.png is drawn from leaderboards/shapes.scores.csv. gallery-shapes-resnet.png and
gallery-shapes-vit.png (what `xaibench explain` draws) and every-method.png are computed with the bundled models from an
image of `shapes`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

import xaibench
from pages import IMAGES, LEADERBOARDS
from xaibench.cli.explain import explain_image
from xaibench.cli.figures import PAPER, RAMP, draw_grid, new_figure
from xaibench.core import registry
from xaibench.data.batch import Batch, collate
from xaibench.models.capabilities import lacking
from xaibench.results.leaderboard import ARROWS, Leaderboard
from xaibench.suite import find_suite, load_suite, select

SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#cfe6d8", "#6fb58c"])


def leaderboard(model: str) -> None:
    """The suite's quick part for one model; a darker cell is better within its column, controls are grey."""
    board = Leaderboard(pd.read_csv(LEADERBOARDS / "shapes.scores.csv"))
    suite = load_suite(find_suite("shapes"))
    chosen = select(suite, quick=True).methods
    table = board.wide().query("model == @model").set_index("method")[board.metrics].round(4)  # ties are ties
    table = table[table.index.isin(chosen)]
    controls = set(board.scores.query("control")["method"]) & set(table.index)
    contestants = table.drop(index=[m for m in table.index if m in controls])
    order = [*contestants.index, *(m for m in table.index if m in controls)]
    figure, axes = plt.subplots(figsize=(13, 0.36 * len(order) + 1.6))
    axes.set(xlim=(-2.1, len(board.metrics)), ylim=(len(order), -2.3))
    axes.axis("off")
    for column, metric in enumerate(board.metrics):
        words = metric.replace("_", "\n") + " " + ARROWS[board.directions[metric]]
        axes.text(column + 0.5, -0.15, words, ha="center", va="bottom", fontsize=8.5, color="#222222")
        values = contestants[metric] * (1 if board.directions[metric] == "higher" else -1)
        ranks = values.rank(pct=True, method="max")
        for row, method in enumerate(order):
            value = table.loc[method, metric]
            shade = "#eeeeee" if method in controls else SHADES(max(0.0, 2 * ranks[method] - 1))
            axes.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=shade, edgecolor="white", linewidth=1.5))
            best = method not in controls and values[method] == values.max()
            axes.text(
                column + 0.5,
                row + 0.53,
                "–" if np.isnan(value) else f"{value:.3f}",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if best else "normal",
                color="#111111",
            )
    for row, method in enumerate(order):
        style = "italic" if method in controls else "normal"
        axes.text(-0.08, row + 0.53, method, ha="right", va="center", fontsize=9.5, style=style, color="#222222")
    images = suite.dataset.options["samples"]
    title = f"xaibench run shapes --quick: {model}, {images} images (italic: controls; bold: best method)"
    axes.set_title(title, fontsize=11, loc="left")
    figure.savefig(IMAGES / "leaderboard.png", dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def publish(figure: Figure, name: str) -> None:
    """Save in the size that a page shows; the repository keeps the bytes of every version."""
    figure.savefig(IMAGES / name, dpi=85, facecolor=PAPER, bbox_inches="tight", pad_inches=0.1)


def gallery(model: str, methods: list[str], index: int) -> None:
    """What `xaibench explain` draws of one image of `shapes`: a row per label, a column per method."""
    sample = xaibench.load_dataset("shapes")[index]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{sample.id}.png"
        sample.image.save(path)
        explained = explain_image(path, xaibench.load_classifier(model), methods, labels=())
    publish(draw_grid(explained, f"{model}: image {index} of shapes"), f"gallery-{model}.png")


def batch_of(sample: xaibench.Sample, classifier: xaibench.Classifier) -> Batch:
    """One sample as a batch of model input."""
    return collate([sample], classifier.geometry).to(classifier.geometry, classifier.device, torch.float32)


def mask_of(method: str, forward: xaibench.Forward, pairs: xaibench.Pairs, truth: Tensor | None) -> Tensor:
    """The mask [H, W] that metrics keep or remove, of the one pair."""
    parameters: dict[str, Any] = {"masks": truth} if "masks" in registry.methods[method].needs else {}
    maps = xaibench.explain(forward.classifier, forward.images, pairs, method=method, **parameters)
    return xaibench.Evaluation(forward, pairs, maps).mask[0]


def every_method(index: int, columns: int = 11) -> None:
    """One label of one image under every registered method, by the first bundled model that offers what it needs."""
    dataset = xaibench.load_dataset("shapes")
    classifiers = [xaibench.load_classifier(model) for model in ("shapes-resnet", "shapes-vit")]
    batches = [batch_of(dataset[index], classifier) for classifier in classifiers]
    forwards = [xaibench.Forward(c, batch.images) for c, batch in zip(classifiers, batches, strict=True)]
    pairs = forwards[0].detected_pairs[torch.tensor([0])]
    tiles = {}
    for method in registry.methods:
        needs = registry.methods[method].needs
        model = next((i for i, own in enumerate(classifiers) if lacking(own, needs) is None), None)
        if model is not None:
            mask = mask_of(method, forwards[model], pairs, batches[model].ground_truth.mask)
            tiles[method.replace("_", " ") + " *" * model] = mask
    picture = classifiers[0].geometry.pixels(batches[0].images)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    rows = -(-(len(tiles) + 1) // columns)
    figure = new_figure(1.35 * columns, 1.55 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(picture)
    axes.flat[0].set_title(dataset.class_names[int(pairs.label[0])], fontsize=8, fontweight="bold")
    ramp = LinearSegmentedColormap.from_list("explained", RAMP)
    for axis, (title, mask) in zip(list(axes.flat)[1:], tiles.items(), strict=False):
        axis.imshow(picture.mean(-1), cmap="gray", vmin=-0.5, vmax=1)
        axis.imshow(mask, cmap=ramp, vmin=0, vmax=1)
        axis.set_title(title, fontsize=7.5)
    publish(figure, "every-method.png")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    leaderboard("shapes-resnet")
    cams = ["cam", "grad_cam_pp", "minmax_cam", "d_minmax_cam", "layer_cam", "saliency", "input_x_gradient"]
    gallery("shapes-resnet", cams, index=4)
    attention = ["raw_attention", "attention_rollout", "generic_attention", "transformer_lrp", "grad_cam", "saliency"]
    gallery("shapes-vit", attention, index=4)
    every_method(index=4)
