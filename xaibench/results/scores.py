"""Scores: values of pairs aggregated to one number with an interval, and the table of all scores of a run.

The image is the unit of resampling, because the labels of one image are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from xaibench.core.aggregation import Aggregation, Array, find_aggregation
from xaibench.core.seeding import stable_seed
from xaibench.results.records import Cell, Records

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """One aggregated value.

    Attributes:
        n: pairs with a defined value
        n_undefined: pairs without one
        n_error: samples that could not be read
        std, stderr: over the finite values of pairs, all labels together
        ci_low, ci_high: percentile bootstrap over images
    """

    value: float
    n: int
    n_undefined: int
    n_error: int
    std: float
    stderr: float
    ci_low: float
    ci_high: float


NAN = float("nan")
NO_SCORE = Score(NAN, 0, 0, 0, NAN, NAN, NAN, NAN)


def score(frame: pd.DataFrame, aggregate: str, seed: int = 0, resamples: int = RESAMPLES) -> Score:
    """Aggregate rows with columns sample_id, label, value, status and statistics (or None)."""
    rule = find_aggregation(aggregate)
    ok = frame[frame["status"] == "ok"]
    value = low = high = float("nan")
    if len(ok):
        sums, counts = moments(ok)
        value = float(rule(sums.sum(0), counts.sum(0)))
        low, high = _interval(rule, sums, counts, seed, resamples)
    values = ok["value"].to_numpy(float)
    values = values[np.isfinite(values)]  # a ratio of counts may be infinite in a row and not in total
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Score(
        value=value,
        n=len(ok),
        n_undefined=int((frame["status"] == "undefined").sum()),
        n_error=int((frame["status"] == "error").sum()),
        std=std,
        stderr=std / len(values) ** 0.5 if len(values) else float("nan"),
        ci_low=low,
        ci_high=high,
    )


def moments(ok: pd.DataFrame) -> tuple[Array, Array]:
    """Sums [I, L, S] and counts [I, L] over the images and labels that occur in defined rows."""
    given = ok["statistics"].notna().all()
    statistics = np.stack(ok["statistics"].to_list()) if given else ok["value"].to_numpy(float)[:, None]
    images, image = np.unique(ok["sample_id"].to_numpy(str), return_inverse=True)
    labels, label = np.unique(ok["label"].to_numpy(int), return_inverse=True)
    sums = np.zeros((len(images), len(labels), statistics.shape[1]))
    counts = np.zeros((len(images), len(labels)))
    np.add.at(sums, (image, label), statistics)
    np.add.at(counts, (image, label), 1)
    return sums, counts


def _interval(rule: Aggregation, sums: Array, counts: Array, seed: int, resamples: int) -> tuple[float, float]:
    if len(sums) < 2 or resamples == 0:
        return float("nan"), float("nan")
    weights = bootstrap_weights(len(sums), seed, resamples)
    return percentile_interval(rule(np.tensordot(weights, sums, 1), weights @ counts))


def bootstrap_weights(images: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """How often each image is drawn in each resample of all images: [resamples, images], rows sum to `images`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(float)


def percentile_interval(values: Array) -> tuple[float, float]:
    """Lower and upper end of the central 95 % of the values that are not NaN; NaN where there are none."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


# -- the table of a run -------------------------------------------------------------------------------------------

COLUMNS = [
    "suite", "dataset", "split", "model", "method", "metric", "direction", "n", "n_undefined", "n_error", "value",
    "std", "stderr", "ci_low", "ci_high", "seconds_per_sample", "fingerprint", "version", "partial", "untrained",
    "control",
]  # fmt: skip


@dataclass(frozen=True)
class ScoredCell:
    """A cell, and the facts that its row in the table of scores needs.

    Attributes:
        aggregate: name of the aggregation
        seed: of the suite
        facts: the columns of a table of scores that neither the records nor the aggregation give
    """

    cell: Cell
    aggregate: str
    seed: int
    facts: Mapping[str, Any]


def score_table(records: Records, cells: Sequence[ScoredCell]) -> pd.DataFrame:
    """Scores of the cells that are complete or have failed, one row each, in the order of `cells`.

    A failed cell has no value, no pairs and no seconds. Cells that are not there are left out.
    """
    rows = []
    for scored in cells:
        cell = scored.cell
        if records.complete(cell):
            frame = records.read(cell)
            # the same resamples for all methods, so that their intervals can be compared
            seed = stable_seed(scored.seed, "bootstrap", cell.metric)
            found = asdict(score(frame, scored.aggregate, seed))
            seconds = frame["seconds"].sum() / max(frame["sample_id"].nunique(), 1)
        elif records.error(cell) is not None:
            found, seconds = asdict(NO_SCORE), float("nan")
        else:
            continue
        names = {"dataset": cell.dataset, "model": cell.model, "method": cell.method, "metric": cell.metric}
        own = {"seconds_per_sample": seconds, "fingerprint": cell.fingerprint[:16]}
        rows.append({**scored.facts, **names, **found, **own})
    return pd.DataFrame(rows, columns=COLUMNS)


def failed(scores: pd.DataFrame) -> pd.Series[bool]:
    """Which rows of a table of scores are cells that failed."""
    return scores["seconds_per_sample"].isna()


def without_value(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """(model, method) of the rows of a leaderboard in which pairs were measured and not one value is defined."""
    groups = scores[~failed(scores)].groupby(["model", "method"], sort=False)
    empty = [own for _, own in groups if own["n_undefined"].sum() > 0 and own["n"].sum() == 0]
    return [(str(own["model"].iloc[0]), str(own["method"].iloc[0])) for own in empty]
