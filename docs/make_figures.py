"""Draws docs/images: the committed leaderboard, and maps of one image for several labels and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap

import xaibench
from xaibench.core import registry
from xaibench.data.batch import Batch, collate
from xaibench.models.capabilities import lacking
from xaibench.results.leaderboard import ARROWS, Leaderboard
from xaibench.suite import find_suite, load_suite, select

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#cfe6d8", "#6fb58c"])


def leaderboard(model: str) -> None:
    """The suite's quick part for one model; a darker cell is better within its column, controls are grey."""
    board = Leaderboard(pd.read_csv(ROOT / "leaderboards" / "shapes.scores.csv"))
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


def gallery(model: str, methods: list[str], index: int) -> None:
    """One image, a row per label, a column per method: the mask that metrics keep or remove."""
    dataset = xaibench.load_dataset("shapes")
    classifier = xaibench.load_classifier(model)
    batch = batch_of(dataset[index], classifier)
    forward = xaibench.Forward(classifier, batch.images)
    pairs = forward.detected_pairs
    picture = classifier.geometry.pixels(batch.images)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    rows, columns = len(pairs), len(methods) + 1
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.6 * rows), squeeze=False)
    for row in range(len(pairs)):
        label = int(pairs.label[row])
        axes[row, 0].imshow(picture)
        axes[row, 0].set_ylabel(
            f"{dataset.class_names[label]}\n{float(forward.probabilities[0, label]):.2f}", fontsize=9
        )
    for column, method in enumerate(methods, 1):
        maps = xaibench.explain(classifier, batch.images, pairs, method=method)
        with torch.no_grad():
            masks = xaibench.Evaluation(forward, pairs, maps).mask
        axes[0, column].set_title(method.replace("_", " "), fontsize=9)
        for row in range(len(pairs)):
            axes[row, column].imshow(grey, alpha=0.55)
            axes[row, column].imshow(masks[row], cmap="magma", alpha=0.7, vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout(pad=0.4)
    figure.savefig(IMAGES / f"gallery-{model}.png", dpi=110, facecolor="white")
    plt.close(figure)


def batch_of(sample: xaibench.Sample, classifier: xaibench.Classifier) -> Batch:
    """One sample as a batch of model input."""
    return collate([sample], classifier.geometry).to(classifier.geometry, classifier.device, torch.float32)


def every_method(index: int, columns: int = 11) -> None:
    """One label of one image under every registered method, by the first bundled model that offers what it needs."""
    dataset = xaibench.load_dataset("shapes")
    tiles: list[tuple[str, str, np.ndarray]] = []
    for name in registry.methods:
        entry = registry.methods[name]
        # wrappers take another method
        needed: dict[str, Any] = {n: "grad_cam" for n, p in entry.parameters.items() if p.default is p.empty}
        for model in ("shapes-resnet", "shapes-vit"):
            classifier = xaibench.load_classifier(model)
            if lacking(classifier, entry.needs) is None:
                batch = batch_of(dataset[index], classifier)
                pairs = xaibench.Forward(classifier, batch.images).detected_pairs[torch.tensor([0])]
                if "masks" in entry.needs:
                    needed["masks"] = batch.ground_truth.mask
                maps = xaibench.explain(classifier, batch.images, pairs, method=name, **needed)
                mask = xaibench.Evaluation(xaibench.Forward(classifier, batch.images), pairs, maps).mask[0]
                tiles.append((name, model, mask.numpy()))
                break
    picture = classifier.geometry.pixels(batch.images)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    rows = -(-(len(tiles) + 1) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.35 * columns, 1.55 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(picture)
    axes.flat[0].set_title(dataset.class_names[int(pairs.label[0])], fontsize=8, fontweight="bold")
    for axis, (name, model, mask) in zip(list(axes.flat)[1:], tiles, strict=False):
        axis.imshow(grey, alpha=0.55)
        axis.imshow(mask, cmap="magma", alpha=0.7, vmin=0, vmax=1)
        axis.set_title(name.replace("_", " ") + (" *" if model == "shapes-vit" else ""), fontsize=7.5)
    figure.tight_layout(pad=0.4)
    figure.savefig(IMAGES / "every-method.png", dpi=100, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    leaderboard("shapes-resnet")
    cams = ["cam", "grad_cam_pp", "minmax_cam", "d_minmax_cam", "layer_cam", "saliency", "input_x_gradient"]
    gallery("shapes-resnet", cams, index=4)
    attention = ["raw_attention", "attention_rollout", "generic_attention", "transformer_lrp", "grad_cam", "saliency"]
    gallery("shapes-vit", attention, index=4)
    every_method(index=4)
