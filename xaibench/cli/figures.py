"""Figures: the maps of one image, the bias term of VGatt by depth, the curves of a training.

Matplotlib and pandas are imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xaibench.cli.options import check_place
from xaibench.core.errors import MissingError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from torch import Tensor

MIDDLE_GREY = 2 / 3  # the middle of the grey image, which is drawn from 1/3 to 1
INK, PAPER = "#1a1a1a", "#ffffff"
# from transparent over yellow to dark red: the grey image stays visible where relevance is low
RAMP = [(1.0, 0.93, 0.55, 0.0), (1.0, 0.8, 0.25, 0.75), (0.94, 0.35, 0.12, 0.88), (0.55, 0.0, 0.15, 0.95)]


@dataclass(frozen=True)
class Explained:
    """One image, its explained labels, and a mask in [0, 1] of each method for each label.

    Attributes:
        picture: [H, W, C] in [0, 1], the model input without its normalisation
        labels: [P] names, by confidence unless the user named them
        confidences: [P]
        masks: [P, H, W] of each method; see `Evaluation.mask`
        notes: messages about the image's size and the choice of labels
    """

    picture: Tensor
    labels: list[str]
    confidences: list[float]
    masks: dict[str, Tensor]
    notes: list[str]


@dataclass(frozen=True)
class Share:
    """The bias term of `vgatt` at one layer for one label, and its share of the label's logit.

    Attributes:
        depth: of the layer, 0 the input
        bias: logit minus the sum of the map
        score: the logit
        ratio: |bias| / |score|
    """

    depth: int
    layer: str
    label: str
    bias: float
    score: float
    ratio: float


def check_output(path: Path) -> None:
    """Check, before anything is computed, that matplotlib is installed and that a figure can be written here.

    Raises:
        UsageError: an ending that is no picture format
        MissingError: matplotlib is not installed, or the file cannot be written
    """
    formats = new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise UsageError(f"{path}: a picture's name ends in one of {', '.join(sorted(formats))}")
    check_place(path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches. Raises MissingError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingError(
            'matplotlib, which draws the picture, is not installed: pip install "xaibench[figures]"'
        ) from error
    return Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")


def draw_grid(explained: Explained, title: str) -> Figure:
    """A row per label, a column per method: masks over the grey image. The background is white, also on dark pages."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("explained", RAMP)
    height, width = explained.picture.shape[:2]
    rows, columns = len(explained.labels), len(explained.masks) + 1
    wide, tall = 1.9, 1.9 * height / width
    figure = new_figure(wide * columns + 2.2, tall * rows + 0.5 + 0.25 * len(explained.notes))
    axes = figure.subplots(rows, columns, squeeze=False)
    grey = explained.picture.mean(-1).numpy()
    for row, (label, confidence) in enumerate(zip(explained.labels, explained.confidences, strict=True)):
        axes[row, 0].imshow(explained.picture.numpy())
        heading = f"{label}\n{confidence:.2f}"
        axes[row, 0].set_ylabel(heading, rotation=0, ha="right", va="center", labelpad=10, fontsize=11, color=INK)
        for panel, masks in zip(axes[row, 1:], explained.masks.values(), strict=True):
            _draw_mask(panel, grey, masks[row], ramp)
    for column, heading in enumerate(["image", *explained.masks]):
        axes[0, column].set_title(heading, fontsize=11, color=INK)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    _draw_colour_bar(figure, axes, ramp, shrink=min(1.0, 3 / (tall * rows)))
    figure.suptitle("\n".join([title, *explained.notes]), fontsize=11, color=INK)
    return figure


def _draw_mask(panel: Axes, grey: Any, mask: Tensor, ramp: Colormap) -> None:
    """Draw a mask [H, W] over the grey image; text says why there is nothing to see."""
    panel.imshow(grey, cmap="gray", vmin=-0.5, vmax=1)
    panel.imshow(mask.numpy(), cmap=ramp, vmin=0, vmax=1)
    if not mask.nan_to_num().any():
        text = "undefined" if mask.isnan().all() else "no positive\nrelevance"
        panel.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color=PAPER, transform=panel.transAxes)


def _draw_colour_bar(figure: Figure, axes: Any, ramp: Colormap, shrink: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    shades = np.asarray(ramp(range(ramp.N)))
    over_grey = ListedColormap(shades[:, 3:] * shades[:, :3] + (1 - shades[:, 3:]) * MIDDLE_GREY)  # as in the panels
    bar = figure.colorbar(ScalarMappable(cmap=over_grey), ax=axes, shrink=shrink, aspect=25, pad=0.02)
    bar.set_label("positive relevance\n(of each map's range)", fontsize=9, color=INK)
    bar.set_ticks([0, 0.5, 1])
    bar.ax.tick_params(labelsize=9, colors=INK)


def draw_shares(shares: Sequence[Share], title: str) -> Figure:
    """|bias| / |score| of every label against depth, on a logarithmic axis."""
    layers = list(dict.fromkeys(share.layer for share in shares))
    figure = new_figure(max(6.0, 0.35 * len(layers) + 2.5), 4.2)
    axes = figure.subplots()
    for label in dict.fromkeys(share.label for share in shares):
        own = [share for share in shares if share.label == label]
        axes.plot([s.depth for s in own], [s.ratio for s in own], marker="o", markersize=4, label=label)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right", fontsize=9)
    axes.set_xlabel("layer, in order of execution", color=INK)
    axes.set_ylabel("|bias| / |score|", color=INK)
    axes.set_title(title, fontsize=11, color=INK)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_curves(log: Path) -> Figure:
    """Training loss, and mAP, F1 and F2 on the evaluation split, over the steps in a training's log (a CSV file)."""
    import pandas as pd

    rows = pd.read_csv(log)
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    left.plot(rows["step"], rows["loss"], marker="o", markersize=4)
    left.set_ylim(0, None)
    left.set_title("Training loss (mean of each epoch)", fontsize=11, color=INK)
    for score in ("mAP", "F1", "F2"):
        right.plot(rows["step"], rows[score], marker="o", markersize=4, label=score)
    right.set_ylim(0, 1)
    right.set_title("On the evaluation split (F at probability > 0.5)", fontsize=11, color=INK)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("step", color=INK)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's ending."""
    figure.savefig(path, dpi=130, facecolor=PAPER, bbox_inches="tight", pad_inches=0.2)
