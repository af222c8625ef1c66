"""What a reader of a comparison must know: what else differs between the sides, and what cannot be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from xaibench.results.evidence import Evidence, same_data
from xaibench.results.leaderboard import plural
from xaibench.results.sides import CellKey, CellScore, Side

Identity = Mapping[str, Any]


def _model_without_weights(identity: Identity) -> Any:
    return {key: value for key, value in identity["model"].items() if key != "weights"}


DIFFERENCES: dict[str, Callable[[Identity], Any]] = {
    "other data (revision, split or samples)": lambda identity: identity["dataset"],
    "other weights": lambda identity: identity["model"].get("weights"),
    "another set-up of the model": _model_without_weights,
    "another version or other parameters of the metric": lambda identity: identity["metric"],
    "another seed": lambda identity: identity["seed"],
    "another precision": lambda identity: identity["precision"],
}
METHOD = "another version or other parameters of the method"


def notes_of(
    base: Side, new: Side, found: Mapping[CellKey, Evidence], alpha: float, exact: float | None, one_run: bool
) -> list[str]:
    """The notes of a comparison, in full sentences.

    Args:
        found: the evidence of the cells that both sides have
        one_run: the sides are two methods of one run, whose other methods are no news
    """
    notes = list(dict.fromkeys([*base.notes, *new.notes]))
    shared = [(base.cells[key], new.cells[key]) for key in found]
    notes += _differences(shared, one_run)
    if exact is None:
        notes += _bases(found, shared)
        notes += _power(found, alpha)
        if all(cell.minimum_effect is None for pair in shared for cell in pair):
            notes.append(
                "No side has minimum effects: the smallest difference counts that is significant (--min-effect)."
            )
    return notes


def _differences(shared: list[tuple[CellScore, CellScore]], one_run: bool) -> list[str]:
    """What else differs, by records; by fingerprints where a side has none."""
    counts: Counter[str] = Counter()
    unknown = 0
    for base, new in shared:
        if base.stored is None or new.stored is None:
            unknown += bool(base.fingerprint and new.fingerprint and base.fingerprint != new.fingerprint)
            continue
        one, two = base.stored.identity, new.stored.identity
        counts.update(name for name, part in DIFFERENCES.items() if part(one) != part(two))
        counts.update([METHOD] if not one_run and one["method"] != two["method"] else [])
    notes = [f"NEW has {name} in {_of(count, shared)}." for name, count in counts.items()]
    if unknown and not one_run:
        what = "of other data, weights, versions, parameters or seed; only two run directories tell which"
        notes.append(f"The fingerprints differ in {_of(unknown, shared)}: they are {what}.")
    return notes


def _of(count: int, shared: list[tuple[CellScore, CellScore]]) -> str:
    return f"{count} of {plural(len(shared), 'cell')}"


def _bases(found: Mapping[CellKey, Evidence], shared: list[tuple[CellScore, CellScore]]) -> list[str]:
    """Which cells are not paired and why, and which pairs are left out."""
    notes = []
    unpaired = [pair for pair, own in zip(shared, found.values(), strict=True) if own.basis == "intervals"]
    if unpaired:
        notes.append(
            f"{_of(len(unpaired), shared)} are compared by two intervals, not image by image, because "
            f"{_obstacle(unpaired)}: a small difference cannot be seen so."
        )
    unshared = sum(own.unshared > 0 for own in found.values())
    if unshared:
        notes.append(f"In {_of(unshared, shared)} the sides explain other pairs; those that both have are compared.")
    return notes


def _obstacle(unpaired: list[tuple[CellScore, CellScore]]) -> str:
    """Why cells are not paired."""
    recorded = [(base, new) for base, new in unpaired if base.stored is not None and new.stored is not None]
    if not recorded:
        return "a side has no records of them"
    if not all(same_data(base, new) for base, new in recorded):
        return "the samples are not the same"
    return "they cannot be paired (no shared value, or no or another aggregation in scores.csv: issue `run` again)"


def _power(found: Mapping[CellKey, Evidence], alpha: float) -> list[str]:
    """A note where no paired test could reject, whatever the differences are."""
    tested = [own for own in found.values() if own.basis == "paired" and own.differing]
    if not tested:
        return []
    images = max(own.images for own in tested)
    if len(tested) * 2.0 ** (1 - images) < alpha:
        return []
    return [
        f"With {plural(images, 'image')} and {plural(len(tested), 'differing cell')} no difference can be significant: "
        "take more images, or compare with --exact."
    ]
