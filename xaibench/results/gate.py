"""The gate: a verdict for every cell of two sides, and whether the whole passes. It prints nothing.

A cell is better or worse where three things hold: the interval of its difference excludes zero, its p value does so after
Holm's correction over the table, and the difference is at least the smallest that matters (`minimum_effect`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xaibench.core.errors import UsageError
from xaibench.results.compare import ROUNDING
from xaibench.results.evidence import Evidence, find_evidence
from xaibench.results.gate_notes import notes_of
from xaibench.results.leaderboard import plural
from xaibench.results.sides import CellKey, CellScore, Side
from xaibench.results.significance import holm

Verdict = Literal["same", "better", "worse", "changed", "new", "missing", "undefined", "marked"]
FailOn = Literal["worse", "changed", "none"]
ALWAYS = ("missing", "undefined", "marked")  # verdicts that fail whatever the values are


@dataclass(frozen=True)
class Rules:
    """How cells are judged.

    Attributes:
        alpha: chance of a false alarm in the whole table; the intervals have the level 1 - alpha
        minimum_effect: the smallest difference that matters, of every metric; None: as the metrics declare
        exact: if given, nothing is tested: a value fails that differs by more than `exact` * (1 + |value of base|)
        fail_on: what fails beside lost cells: what is worse, whatever changed significantly, or nothing at all
        controls: judge controls as methods; otherwise a control is never better or worse, only changed
        allow_missing: the new side may be a part of the base: cells that it lacks do not fail
    """

    alpha: float = 0.05
    minimum_effect: float | None = None
    exact: float | None = None
    fail_on: FailOn = "worse"
    controls: bool = False
    allow_missing: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha {self.alpha:g}: give a number between 0 and 1, such as 0.05")
        for name, value in (("minimum effect", self.minimum_effect), ("tolerance", self.exact)):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} {value:g}: give a number from 0")

    def fails(self, verdict: Verdict) -> bool:
        """Whether a cell of this verdict fails the gate."""
        if self.fail_on == "none" or (verdict == "missing" and self.allow_missing):
            return False
        changes = self.fail_on == "changed" or self.exact is not None
        return verdict in ALWAYS or verdict == "worse" or (changes and verdict in ("better", "changed"))


@dataclass(frozen=True)
class Row:
    """The verdict on one cell.

    Attributes:
        base, new: the cell on each side, None where a side lacks it
        evidence: None where a side lacks the cell
        p_adjusted: after Holm's correction over the table; NaN where nothing is tested
        minimum_effect: the smallest difference that matters
        direction: which way is better, "" where no file says
        reason: why, in words; "" where the verdict says it all
    """

    key: CellKey
    verdict: Verdict
    fails: bool
    reason: str = ""
    base: CellScore | None = None
    new: CellScore | None = None
    evidence: Evidence | None = None
    p_adjusted: float = math.nan
    minimum_effect: float = 0.0
    direction: str = ""


@dataclass(frozen=True)
class Gate:
    """The result of a comparison: rows in the order of the base, then what only the new side has."""

    base: str
    new: str
    rows: Sequence[Row]
    notes: Sequence[str]
    rules: Rules

    @property
    def failing(self) -> list[Row]:
        return [row for row in self.rows if row.fails]

    @property
    def passed(self) -> bool:
        return not self.failing

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of cells by verdict."""
        return Counter(row.verdict for row in self.rows)


def compare_sides(base: Side, new: Side, rules: Rules, *, one_run: bool = False) -> Gate:
    """Judge every cell of two sides.

    Args:
        base: the reference
        one_run: the sides are two methods of one run, which differ by intention

    Raises:
        UsageError: no cell is on both sides, or an unknown aggregation
    """
    shared = [key for key in base.cells if key in new.cells]
    if not shared:
        raise UsageError(
            f"{base.name} and {new.name} have no cell in common: cells are joined by data set, model, method and metric; "
            "compare runs of the same suite"
        )
    found = {key: find_evidence(base.cells[key], new.cells[key], key.metric, rules.alpha) for key in shared}
    adjusted = _adjusted(found)
    rows = [
        _judged(key, base.cells[key], new.cells[key], found[key], adjusted.get(key, math.nan), rules) for key in shared
    ]
    by_key = {row.key: row for row in rows}
    by_key |= {key: _missing(key, cell, rules) for key, cell in base.cells.items() if key not in by_key}
    ordered = [by_key[key] for key in base.cells]
    ordered += [Row(key, "new", False, new=cell) for key, cell in new.cells.items() if key not in base.cells]
    return Gate(base.name, new.name, ordered, notes_of(base, new, found, rules.alpha, rules.exact, one_run), rules)


def _adjusted(found: Mapping[CellKey, Evidence]) -> dict[CellKey, float]:
    """Holm's p values. A paired test without a differing image can never reject, and does not count [tarone1990]."""
    tested = {key: own.p for key, own in found.items() if not math.isnan(own.p)}
    counted = [key for key in tested if found[key].basis != "paired" or found[key].differing]
    return dict.fromkeys(tested, 1.0) | dict(zip(counted, holm([tested[key] for key in counted]), strict=True))


def _missing(key: CellKey, base: CellScore, rules: Rules) -> Row:
    if base.failed or math.isnan(base.value):
        return Row(key, "same", False, "without a value in BASE", base=base)
    return Row(key, "missing", rules.fails("missing"), "not in NEW", base=base)


def _judged(key: CellKey, base: CellScore, new: CellScore, found: Evidence, p_adjusted: float, rules: Rules) -> Row:
    """The row of a cell that both sides have."""
    declared = base.minimum_effect if base.minimum_effect is not None else new.minimum_effect
    effect = rules.minimum_effect if rules.minimum_effect is not None else declared or 0.0
    directions = {cell.direction for cell in (base, new) if cell.direction}
    direction = directions.pop() if len(directions) == 1 else ""
    verdict, reason = _lost(base, new, found)
    if verdict is None and rules.exact is not None:
        verdict, reason = _exact(base, new, rules.exact)
    elif verdict is None:
        control = (base.control or new.control) and not rules.controls
        verdict, reason = _tested(found, p_adjusted, effect, "" if control else direction, rules.alpha)
    return Row(key, verdict, rules.fails(verdict), reason, base, new, found, p_adjusted, effect, direction)


def _lost(base: CellScore, new: CellScore, found: Evidence) -> tuple[Verdict | None, str]:
    """What fails without a look at the difference."""
    if new.failed and not base.failed:
        return "undefined", "failed in NEW"
    if math.isnan(new.value) and not math.isnan(base.value):
        return "undefined", "no value is defined in NEW"
    if new.n_error > base.n_error:
        return "undefined", f"cannot be read in NEW: {plural(new.n_error - base.n_error, 'more sample')}"
    marks = [name for name in ("partial", "untrained") if getattr(new, name) and not getattr(base, name)]
    if marks:
        return "marked", f"{' and '.join(marks)} in NEW only"
    if found.lost:
        return "undefined", f"undefined in NEW and not in BASE: {plural(found.lost, 'value')}"
    return None, ""


def _exact(base: CellScore, new: CellScore, tolerance: float) -> tuple[Verdict, str]:
    """Compare the values of the tables."""
    allowed = tolerance * (1 + abs(base.value)) + base.rounding + new.rounding
    equal = base.value == new.value or (math.isnan(base.value) and math.isnan(new.value))
    if equal or abs(new.value - base.value) <= allowed:
        return "same", ""
    return "changed", f"differs by {abs(new.value - base.value):.3g}, more than {allowed:.3g}"


def _tested(found: Evidence, p_adjusted: float, effect: float, direction: str, alpha: float) -> tuple[Verdict, str]:
    """Compare by interval, p value and size; `direction` "" for a cell that cannot be better or worse."""
    if found.equal:
        return "same", ""
    if math.isnan(found.base):
        return "changed", "has no value in BASE"
    size = abs(found.difference)
    infinite = math.isinf(found.base) or math.isinf(found.new)
    significant = found.basis == "values" or (found.excludes_zero and p_adjusted < alpha)
    large = size >= max(effect, ROUNDING * max(1.0, abs(found.base)))
    if not (infinite or (significant and large)):
        return "same", ""
    if not direction:
        return "changed", ""
    return ("better" if (found.new > found.base) == (direction == "higher") else "worse"), ""
