"""From a run of `shapes-full`: do the metrics agree, and does the ground truth win?

    python docs/make_correlations.py build/leaderboards/shapes-full

Draws docs/images/metric-correlations.png (rank correlations of all metrics over all methods) and writes, between its
markers in docs/what_metrics_measure.md, each metric's score of the controls `oracle` and `random` with a paired interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from xaibench.core.aggregation import find_aggregation
from xaibench.core.registry import BoundMetric
from xaibench.core.seeding import stable_seed
from xaibench.results import scores
from xaibench.results.leaderboard import ARROWS
from xaibench.suite import load_suite

DOCS = Path(__file__).parent
PAGE = DOCS / "what_metrics_measure.md"
FIGURE = DOCS / "images" / "metric-correlations.png"
MARKERS = "<!-- made by docs/make_correlations.py -->", "<!-- end -->"
TRUTH, NOTHING = "oracle", "random"
ROUNDING = 1e-6  # float32 scores that differ by less do not differ


def oriented(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of one model, methods by metrics, signs such that higher is better."""
    sign = table["direction"].map({"higher": 1, "lower": -1})
    wide = table.assign(value=table["value"] * sign).pivot(index="method", columns="metric", values="value")
    return wide[list(dict.fromkeys(table["metric"]))]


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlation over methods of each two metrics, the mean over models."""
    found = [oriented(own).corr("spearman", min_periods=5) for _, own in table.groupby("model", sort=False)]
    stacked = np.stack([matrix.to_numpy() for matrix in found])
    counted = (~np.isnan(stacked)).sum(0)
    mean = np.where(counted > 0, np.nansum(stacked, 0) / np.maximum(counted, 1), np.nan)
    return pd.DataFrame(mean, index=found[0].index, columns=found[0].columns)


def draw(matrix: pd.DataFrame, metrics: list[BoundMetric], caption: str, path: Path) -> None:
    """A heat map in the suite's order, lines between the groups of metrics."""
    figure, axes = plt.subplots(figsize=(15, 13.5))
    sns.heatmap(
        matrix,
        vmin=-1,
        vmax=1,
        cmap="RdBu",
        square=True,
        ax=axes,
        linewidths=0.3,
        linecolor="#ffffff",
        cbar_kws={"shrink": 0.6, "label": "Spearman rank correlation over methods (better = higher)"},
        xticklabels=True,
        yticklabels=True,
    )
    axes.set_facecolor("#dddddd")
    groups = [metric.entry.group for metric in metrics]
    for place in range(1, len(groups)):
        if groups[place] != groups[place - 1] and groups[place]:
            axes.axhline(place, color="#222222", linewidth=1)
            axes.axvline(place, color="#222222", linewidth=1)
    axes.tick_params(labelsize=8, length=0)
    axes.set(xlabel="", ylabel="")
    axes.set_title(caption, fontsize=11, loc="left")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def frame(run: Path, row: pd.Series) -> pd.DataFrame:
    """The records behind one row of the scores; two averages of one metric have the same."""
    paths = sorted(run.glob(f"cells/*/*/*/*@{row['fingerprint'][:8]}.parquet"))
    return pd.read_parquet(paths[0])


def paired(
    truth: pd.DataFrame, nothing: pd.DataFrame, aggregate: str, seed: int
) -> tuple[float, float, float, float, float, int]:
    """Scores of both, their difference and its 95 % interval, on rows where both are defined; and how many those are.

    The same resamples of images for both: what makes an image hard for every map cancels.
    """
    rule = find_aggregation(aggregate)
    both = [f[f["status"] == "ok"].set_index(["sample_id", "label"]).sort_index() for f in (truth, nothing)]
    common = both[0].index.intersection(both[1].index)
    if not len(common):
        return (np.nan,) * 5 + (0,)
    moments = [scores.moments(own.loc[common].reset_index()) for own in both]
    images = len(moments[0][0])
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=scores.RESAMPLES)
    weights = np.concatenate([np.ones((1, images)), weights])  # the first row is the estimate
    first, second = (rule(np.tensordot(weights, sums, 1), weights @ counts) for sums, counts in moments)
    difference = first - second
    low, high = np.nanquantile(difference[1:], [0.025, 0.975]) if np.isfinite(difference[1:]).any() else (np.nan,) * 2
    return float(first[0]), float(second[0]), float(difference[0]), float(low), float(high), len(common)


def verdict(low: float, high: float, better: str) -> str:
    """Whether the interval excludes 0, and on which side."""
    if better == "lower":
        low, high = -high, -low
    if np.isnan(low):
        return "undefined"
    return "yes" if low > ROUNDING else f"**no: {NOTHING} wins**" if high < -ROUNDING else "undecided"


def truth_table(run: Path, table: pd.DataFrame, metrics: list[BoundMetric], seed: int) -> str:
    """Markdown: a row per metric of one model."""
    lines = [
        f"| metric | {TRUTH} | {NOTHING} | {TRUTH} − {NOTHING} [95 %] | n | truth wins |",
        "|---|---|---|---|---|---|",
    ]
    for metric in metrics:
        rows = table[table["metric"] == metric.label].set_index("method", drop=False)
        if not {TRUTH, NOTHING} <= set(rows.index):
            continue
        frames = [frame(run, rows.loc[name]) for name in (TRUTH, NOTHING)]
        first, second, difference, low, high, n = paired(
            *frames, metric.aggregate, stable_seed(seed, "bootstrap", metric.label)
        )
        words = [f"{first:.3g}", f"{second:.3g}", f"{difference:+.3g} [{low:+.3g}, {high:+.3g}]", str(n)]
        lines.append(
            f"| {metric.label} {ARROWS[metric.better]} | {' | '.join(words)} | {verdict(low, high, metric.better)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE, help="with the markers; written in place")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    table = pd.read_csv(options.run / "scores.csv")
    suite = load_suite(options.run / "suite.yaml")
    metrics = [metric for metric in suite.bound_metrics() if metric.label in set(table["metric"])]
    models = list(dict.fromkeys(table["model"]))
    matrix = correlations(table)
    methods = table["method"].nunique()
    caption = f"{len(matrix)} metrics over {methods} methods and controls; mean over {', '.join(models)}"
    draw(matrix, metrics, caption, options.figure)
    sections = [
        f"### {model}\n\n" + truth_table(options.run, table[table["model"] == model], metrics, suite.seed)
        for model in models
    ]
    made = "\n\n".join(sections)
    print(made)
    start, end = MARKERS
    before, _, rest = options.page.read_text().partition(start)
    after = rest.partition(end)[2]
    options.page.write_text(f"{before}{start}\n\n{made}\n\n{end}{after}")


if __name__ == "__main__":
    main()
