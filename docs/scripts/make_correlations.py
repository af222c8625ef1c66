"""Draw how the metrics agree, and write the table of docs/what_metrics_measure.md: does the ground truth win?

    python docs/scripts/make_correlations.py                                     # the figure; seconds
    python docs/scripts/make_correlations.py build/leaderboards/shapes-full      # the figure and the table; a minute

docs/images/metric-correlations.png shows the rank correlations of all metrics over all methods. It is drawn from the
scores in leaderboards/shapes-full.scores.csv, or from those of a run. The table compares the controls `oracle` and `random`
by each metric with a paired interval. That takes the records of a run of `shapes-full` (`make leaderboards`, 11 minutes),
which are not committed. `--page` names another page with the same markers.
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

from pages import DOCS, IMAGES, LEADERBOARDS, replace_generated_part
from xaibench.core.registry import BoundMetric
from xaibench.core.seeding import stable_seed
from xaibench.results.compare import paired
from xaibench.results.leaderboard import ARROWS
from xaibench.suite import find_suite, load_suite

PAGE = DOCS / "what_metrics_measure.md"
FIGURE = IMAGES / "metric-correlations.png"
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
        found = paired(*frames, metric.aggregate, stable_seed(seed, "bootstrap", metric.label))
        words = [
            f"{found.first:.3g}",
            f"{found.second:.3g}",
            f"{found.value:+.3g} [{found.ci_low:+.3g}, {found.ci_high:+.3g}]",
            str(found.n),
            verdict(found.ci_low, found.ci_high, metric.better),
        ]
        lines.append(f"| {metric.label} {ARROWS[metric.better]} | {' | '.join(words)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="directory of a run of shapes-full, with its cells")
    parser.add_argument("--page", type=Path, default=PAGE, help="with the markers; written in place")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    run: Path | None = options.run
    table = pd.read_csv(run / "scores.csv" if run else LEADERBOARDS / "shapes-full.scores.csv")
    suite = load_suite(run / "suite.yaml" if run else find_suite("shapes-full"))
    metrics = [metric for metric in suite.bound_metrics() if metric.label in set(table["metric"])]
    models = list(dict.fromkeys(table["model"]))
    matrix = correlations(table)
    methods = table["method"].nunique()
    caption = f"{len(matrix)} metrics over {methods} methods and controls; mean over {', '.join(models)}"
    draw(matrix, metrics, caption, options.figure)
    if run:
        sections = [
            f"### {model}\n\n" + truth_table(run, table[table["model"] == model], metrics, suite.seed)
            for model in models
        ]
        replace_generated_part(options.page, "make_correlations.py", "\n\n".join(sections))


if __name__ == "__main__":
    main()
