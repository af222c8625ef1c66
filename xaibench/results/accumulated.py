"""`Scores`: values of metrics on one batch, which can be added up over batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from xaibench.core.errors import UsageError
from xaibench.results.records import rows_of
from xaibench.results.scores import score

ROW = ["sample_id", "label", "value", "status", "statistics"]


def score_rows(
    images: Sequence[int],
    labels: Sequence[int],
    values: Sequence[float],
    statistics: Sequence[list[float] | None],
) -> pd.DataFrame:
    """The rows of a metric, as `Scores` holds them."""
    rows = rows_of(map(str, images), labels, values, statistics, 0.0)
    return pd.DataFrame([{**row, "sample_id": int(row["sample_id"])} for row in rows], columns=ROW)


@dataclass(frozen=True)
class Scores:
    """Values of metrics on some images. `a + b` are the values on the images of both; `sum(batches, Scores())` works.

    The mean of the scores of batches differs from the score of all images where a score is a ratio of totals or a mean
    over labels.

    Attributes:
        rows: a row per pair (or image), by metric; sample ids are image numbers
        aggregates: the name of the aggregation, by metric
        images: how many there are
        seed: of the bootstrap
    """

    rows: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    aggregates: Mapping[str, str] = field(default_factory=dict)
    images: int = 0
    seed: int = 0

    def __add__(self, other: Scores) -> Scores:
        if not self.aggregates:
            return other
        if not other.aggregates:
            return self
        if self.aggregates != other.aggregates:
            raise UsageError(
                f"scores of {', '.join(self.aggregates)} and of {', '.join(other.aggregates)} do not add up; "
                "evaluate every batch by the same metrics"
            )
        rows = {
            metric: pd.concat([own, _shifted(other.rows[metric], self.images)]) for metric, own in self.rows.items()
        }
        return Scores(rows, self.aggregates, self.images + other.images, self.seed)

    def __radd__(self, other: int) -> Scores:
        """The scores themselves: `sum` without a start begins with 0."""
        return self if other == 0 else NotImplemented

    def __repr__(self) -> str:
        return f"Scores({', '.join(self.aggregates)}: {self.images} images)"

    @property
    def table(self) -> pd.DataFrame:
        """A row per metric: metric, value, n, n_undefined, n_error, std, stderr, ci_low, ci_high."""
        found = [
            {"metric": metric, **vars(score(rows.astype({"sample_id": str}), self.aggregates[metric], self.seed))}
            for metric, rows in self.rows.items()
        ]
        return pd.DataFrame(found)


def _shifted(rows: pd.DataFrame, images: int) -> pd.DataFrame:
    return rows.assign(sample_id=rows["sample_id"] + images)
