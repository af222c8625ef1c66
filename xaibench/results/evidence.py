"""How one cell differs between two sides: paired on the images of both, by two intervals, or by two values alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xaibench.core.seeding import stable_seed
from xaibench.results.compare import KEY, SharedPairs
from xaibench.results.scores import CONFIDENCE
from xaibench.results.sides import NAN, CellScore
from xaibench.results.significance import normal_quantile, signed_rank, two_sided

Basis = Literal["paired", "intervals", "values"]


@dataclass(frozen=True)
class Evidence:
    """The difference of a cell between two sides.

    Attributes:
        basis: "paired": on the pairs that both have; "intervals": of two samples; "values": not tested
        base, new: the values; where paired, those of the shared pairs
        difference: new - base
        ci_low, ci_high: of the difference; NaN where there is none
        p: two-sided, before a correction for many cells; NaN where nothing is tested
        images: that both have, where paired
        differing: images whose value differs, where paired
        lost: pairs that are defined in base, and undefined in new
        unshared: pairs that one side lacks
    """

    basis: Basis
    base: float
    new: float
    difference: float
    ci_low: float = NAN
    ci_high: float = NAN
    p: float = NAN
    images: int = 0
    differing: int = 0
    lost: int = 0
    unshared: int = 0

    @property
    def equal(self) -> bool:
        """Whether both sides have the same value: no test is needed. Two undefined values are equal."""
        return self.base == self.new or (math.isnan(self.base) and math.isnan(self.new))

    @property
    def excludes_zero(self) -> bool:
        return self.ci_low > 0 or self.ci_high < 0


def same_data(base: CellScore, new: CellScore) -> bool:
    """Whether both have records of the same samples of the same data."""
    return (
        base.stored is not None
        and new.stored is not None
        and base.stored.identity["dataset"] == new.stored.identity["dataset"]
    )


def find_evidence(base: CellScore, new: CellScore, metric: str, alpha: float) -> Evidence:
    """The difference of a cell that both sides have, by the best that they offer.

    Args:
        metric: its label; decides the resamples
        alpha: the intervals have the level 1 - alpha

    Raises:
        UsageError: an unknown aggregation
    """
    if same_data(base, new) and base.aggregate and base.aggregate == new.aggregate:
        found = _paired(base, new, metric, alpha)
        if found is not None:
            return found
    return _by_intervals(base, new, alpha)


def _paired(base: CellScore, new: CellScore, metric: str, alpha: float) -> Evidence | None:
    """None where no pair is defined on both sides."""
    assert base.stored is not None
    assert new.stored is not None
    first, second = new.stored.read(), base.stored.read()
    pairs = SharedPairs(first, second, base.aggregate)
    if not pairs.count:
        return None
    seed = stable_seed(base.stored.identity.get("seed"), "bootstrap", metric)  # as the intervals of the scores
    found, by_image = pairs.difference(seed, 1 - alpha), pairs.by_image()
    status = {side: rows.set_index(KEY)["status"] for side, rows in (("new", first), ("base", second))}
    both = status["base"].index.intersection(status["new"].index)
    lost = (status["base"].loc[both] == "ok") & (status["new"].loc[both] != "ok")
    return Evidence(
        basis="paired",
        base=found.second,
        new=found.first,
        difference=found.value,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        p=signed_rank(by_image),
        images=found.images,
        differing=int((by_image != 0).sum()),
        lost=int(lost.sum()),
        unshared=len(status["base"]) + len(status["new"]) - 2 * len(both),
    )


def _by_intervals(base: CellScore, new: CellScore, alpha: float) -> Evidence:
    """Combine two intervals as if of independent samples [zou2008]; on equal data the result is too wide, never too narrow."""
    difference = new.value - base.value
    scale = normal_quantile(alpha) / normal_quantile(1 - CONFIDENCE)
    below = scale * math.hypot(new.value - new.ci_low, base.ci_high - base.value)
    above = scale * math.hypot(new.ci_high - new.value, base.value - base.ci_low)
    lost = max(0, new.n_undefined - base.n_undefined) if base.n + base.n_undefined == new.n + new.n_undefined else 0
    if not math.isfinite(difference) or math.isnan(below) or math.isnan(above):
        return Evidence("values", base.value, new.value, difference, lost=lost)
    towards_zero = (below if difference > 0 else above) / normal_quantile(alpha)
    p = 1.0 if difference == 0 else two_sided(abs(difference) / towards_zero) if towards_zero else 0.0
    interval = (difference - below, difference + above)
    return Evidence("intervals", base.value, new.value, difference, *interval, p=p, lost=lost)
