"""Taking an image apart in the order a map says: units, ranks, what a removed pixel becomes, and the curves of scores.

Units (pixels, grid patches or superpixels) are ranked once by their mean relevance. The image after k removals is
`where(rank < k, replacement, image)`; those images are made in chunks across pairs AND steps.

The tie rule: the sort is stable, so equal units are removed in raster order, in either direction. A constant map is
therefore taken apart from the top left to the bottom right by both orders. `Evaluation.tied` says how much of a map
its values leave to this rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from xaibench.chunks import map_chunks
from xaibench.errors import UsageError
from xaibench.imputation import impute
from xaibench.superpixels import grid_cells, slic

if TYPE_CHECKING:
    from xaibench.evaluation import Evaluation

Static = Literal["zero", "black", "mean", "min", "blur", "noise", "road"]
Baseline = Literal["zero", "black", "mean", "min", "blur", "noise", "road", "running_mean"]
Order = Literal["morf", "lerf", "random"]
Unit = Literal["pixel", "patch", "segment"]
Score = Literal["probability", "logit"]
Remove = Callable[[Tensor, Tensor], Tensor]  # rows of pairs [n], removed bool [n, c, H, W] -> images [n, C, H, W]


@dataclass(frozen=True)
class Removal:
    """What is removed in which portions, and what replaces it; two metrics that say the same share their curves.

    Attributes:
        baseline: `zero` (0 in model space: the mean colour of the training data), `black` (0 before normalisation),
            `mean` (of each channel of the image), `min` (of the image over all channels), `blur` (`kernel`, `sigma`;
            zero-padded), `noise` (Gaussian of each channel's mean and deviation, a fixed draw per pair), `road`
            (imputed from what is left, plus Gaussian noise of deviation `noise`), `running_mean` (the mean of the
            image, all channels, as it was before the step; what Quantus calls mean)
        unit: `pixel`, `patch` (cells of a `grid` x `grid` partition) or `segment` (superpixels grown from that grid)
        steps: T portions of (nearly) equal numbers of units: floor(t n / T) are gone after step t. None: one unit a
            step, which is meant for patches and segments
        fractions: of the units, instead of steps
    """

    baseline: Baseline = "zero"
    unit: Unit = "pixel"
    grid: int = 8
    steps: int | None = 32
    fractions: tuple[float, ...] | None = None
    kernel: int = 11
    sigma: float = 5.0
    noise: float = 0.01

    def __post_init__(self) -> None:
        if self.steps is None and self.fractions is None and self.unit == "pixel":
            raise UsageError("steps: null removes one unit at a time, which is for patches and segments; give a number")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps: {self.steps}; at least 1 is needed")
        if self.grid < 1:
            raise UsageError(f"grid: {self.grid}; at least 1 is needed")
        if self.kernel < 1 or self.kernel % 2 == 0 or self.sigma <= 0:
            raise UsageError(f"blur: kernel {self.kernel} must be odd and sigma {self.sigma} positive")
        if self.fractions is not None and not all(0 < fraction <= 1 for fraction in self.fractions):
            raise UsageError(f"fractions: {self.fractions} must lie in (0, 1]")

    def counts(self, units: Tensor) -> Tensor:
        """long [P, T + 1]: how many of [P] units are gone before the first and after each step.

        Where units are removed one at a time, pairs with fewer units than others have counts beyond their number.
        """
        n = units[:, None]
        if self.fractions is not None:
            # 0.29 * 100 is 28.999999999999996
            wanted = torch.tensor((0.0, *self.fractions), dtype=torch.float64, device=n.device)
            return (n * wanted + 1e-6).floor().long()
        if self.steps is not None:
            return n * torch.arange(self.steps + 1, device=n.device) // self.steps
        longest = int(units.max()) if len(units) else 1
        return torch.arange(longest + 1, device=n.device).expand(len(units), -1)


@dataclass(frozen=True)
class Units:
    """A partition of images into what is removed as a whole.

    Attributes:
        index: long [P, c, H, W], the unit of each pixel (c = 1: all its channels) or of each scalar (c = C)
        total: numbers run from 0 to total - 1; not all need to occur in every image
    """

    index: Tensor
    total: int

    def sums(self, values: Tensor) -> Tensor:
        """double [P, total]: values [P, c, H, W] summed over each unit."""
        zeros = torch.zeros(len(values), self.total, dtype=torch.float64, device=values.device)
        return zeros.scatter_add_(1, self.index.flatten(1), values.flatten(1).double())

    @cached_property
    def sizes(self) -> Tensor:
        """double [P, total]: the pixels (or scalars) of each unit."""
        return self.sums(torch.ones(self.index.shape, device=self.index.device))

    def spread(self, values: Tensor) -> Tensor:
        """[P, total] -> [P, c, H, W]: each pixel gets its unit's value."""
        return values.gather(1, self.index.flatten(1)).view(self.index.shape)

    def ranks(self, values: Tensor, order: Literal["morf", "lerf"]) -> Tensor:
        """int32 [P, c, H, W]: 0 for the unit removed first; units are compared by their mean of values [P, c, H, W].

        Means are compared in float32, so that rounding makes no order out of ties; units without a pixel come last.
        """
        last = -torch.inf if order == "morf" else torch.inf
        means = (self.sums(values) / self.sizes).float().masked_fill(self.sizes == 0, last)
        sequence = means.argsort(dim=1, descending=order == "morf", stable=True)
        places = torch.arange(self.total, device=means.device).expand_as(sequence)
        return self.spread(torch.empty_like(sequence).scatter_(1, sequence, places)).int()


def units(evaluation: Evaluation, unit: Unit, grid: int) -> Units:
    """The partition of each pair's image."""
    images, pairs = evaluation.forward.images, evaluation.pairs
    height, width = images.shape[-2:]
    if unit == "segment":
        return Units(slic(images, grid)[pairs.image][:, None], grid * grid)
    if unit == "patch":
        index, total = grid_cells(height, width, grid, images.device), grid * grid
    else:
        index, total = torch.arange(height * width, device=images.device).view(height, width), height * width
    return Units(index.expand(len(pairs), 1, height, width), total)


def tied(values: Tensor) -> Tensor:
    """[P]: the fraction of values [P, n] that another value of the same row equals."""
    ordered = values.sort(1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    edge = torch.zeros_like(same[:, :1])
    return (torch.cat([same, edge], 1) | torch.cat([edge, same], 1)).to(values.dtype).mean(1)


# -- what the model says ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """What the model says of changed images, of any one shape.

    Attributes:
        logit, probability: of the explained label
        others_logit, others_probability: mean over the OTHER labels detected in the clean image; NaN without any
        predicted: the label of the largest logit
        decided: 1 where the explained label is still the model's decision: above the threshold (sigmoid), or the
            largest (softmax)
    """

    logit: Tensor
    probability: Tensor
    others_logit: Tensor
    others_probability: Tensor
    predicted: Tensor
    decided: Tensor

    def own(self, score: Score) -> Tensor:
        return self.probability if score == "probability" else self.logit

    def others(self, score: Score) -> Tensor:
        return self.others_probability if score == "probability" else self.others_logit


def _table(evaluation: Evaluation, pair: Tensor, logits: Tensor) -> Tensor:
    """[n, fields of Readings] from logits [n, L] of changed images of rows `pair` [n]."""
    classifier, label = evaluation.forward.classifier, evaluation.pairs.label[pair, None]
    probabilities = classifier.activate(logits)
    others = evaluation.others()[pair]
    predicted = logits.argmax(1, keepdim=True)
    own = probabilities.gather(1, label)
    decided = own > classifier.threshold if classifier.activation == "sigmoid" else predicted == label

    def mean(values: Tensor) -> Tensor:
        return torch.where(others, values, 0).sum(1, keepdim=True) / others.sum(1, keepdim=True)

    columns = logits.gather(1, label), own, mean(logits), mean(probabilities), predicted, decided
    return torch.cat([column.to(logits.dtype) for column in columns], 1)


def clean(evaluation: Evaluation) -> Readings:
    """Readings [P] of the untouched images; no forward."""
    rows = torch.arange(len(evaluation.pairs), device=evaluation.maps.device)
    table = _table(evaluation, rows, evaluation.forward.logits[evaluation.pairs.image])
    return Readings(*table.unbind(1))


def read(evaluation: Evaluation, pair: Tensor, change: Callable[[Tensor], Tensor]) -> Readings:
    """Readings [N] of changed images, one forward each.

    Args:
        pair: [N], which pair each changed image belongs to
        change: makes the images [n, C, H, W] of some of the N rows at a time
    """
    classifier = evaluation.forward.classifier
    if len(pair) == 0:
        return Readings(*evaluation.maps.new_zeros(0, len(fields(Readings))).unbind(1))
    rows = torch.arange(len(pair), device=pair.device)
    table = map_chunks(
        lambda chunk: _table(evaluation, pair[chunk], classifier.logits(change(chunk))), rows, classifier.chunk
    )
    return Readings(*table.unbind(1))


# -- replacements -----------------------------------------------------------------------------------------------


def remover(evaluation: Evaluation, removal: Removal) -> Remove:
    """How images with removed pixels are made: `remove(pair rows [n], removed [n, c, H, W]) -> [n, C, H, W]`."""
    images, rows = evaluation.forward.images, evaluation.pairs.image
    if removal.baseline == "running_mean":
        raise UsageError("baseline: running_mean is for metrics that remove one portion after the other")
    if removal.baseline == "road":
        jitter = _noise(evaluation, "road") * removal.noise if removal.noise else None

        def imputed(pair: Tensor, removed: Tensor) -> Tensor:
            filled = impute(images[rows[pair]], removed)
            return filled if jitter is None else torch.where(removed, filled + jitter[pair], filled)

        return imputed
    if removal.baseline == "noise":
        drawn = _noise(evaluation, "noise")
        mean, deviation = images.mean((2, 3), keepdim=True)[rows], images.std((2, 3), keepdim=True)[rows]
        return substitute(evaluation, mean + deviation * drawn)
    per_image = _replacement(evaluation, removal)
    return lambda pair, removed: torch.where(removed, per_image[rows[pair]], images[rows[pair]])


def substitute(evaluation: Evaluation, replacement: Tensor) -> Remove:
    """Removed pixels take their value from a replacement per pair [P, C, H, W]."""
    images, rows = evaluation.forward.images, evaluation.pairs.image
    return lambda pair, removed: torch.where(removed, replacement[pair], images[rows[pair]])


def _replacement(evaluation: Evaluation, removal: Removal) -> Tensor:
    """[B, C, H, W] (or with sizes of 1) of the baselines that are one per image."""
    images = evaluation.forward.images
    match removal.baseline:
        case "mean":
            return images.mean((2, 3), keepdim=True)
        case "min":
            return images.amin((1, 2, 3), keepdim=True).expand(-1, images.shape[1], 1, 1)
        case "blur":
            return blur(images, removal.kernel, removal.sigma)
        case "black":
            preprocess = evaluation.forward.classifier.preprocess
            if preprocess is None:
                raise UsageError("baseline: black needs the model's normalisation (Classifier(preprocess=...))")
            return preprocess.normalise(torch.zeros_like(images))
    return torch.zeros_like(images)


def _noise(evaluation: Evaluation, name: str) -> Tensor:
    """[P, C, H, W] standard normal, seeded by pair; drawn in float32, so that every precision has the same draws."""
    images = evaluation.forward.images
    shape = images.shape[1:]
    draws = [
        torch.randn(shape, generator=generator) for generator in evaluation.forward.generators(evaluation.pairs, name)
    ]
    return torch.stack(draws).to(images) if draws else images.new_zeros(0, *shape)


def blur(images: Tensor, kernel: int, sigma: float) -> Tensor:
    """RISE's blur: a Gaussian folded into `kernel` taps (reflected at its ends), nothing beyond the image's border.

    As a product with two banded matrices, which no device computes in reduced precision by default.
    """
    taps = _taps(kernel, sigma).to(images)
    height, width = images.shape[-2:]
    return _band(taps, height) @ images @ _band(taps, width).T


def _taps(kernel: int, sigma: float) -> Tensor:
    """double [kernel]: an impulse at the centre of `kernel` samples, filtered with half-sample reflection."""
    offsets = torch.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    position = (kernel // 2 + offsets) % (2 * kernel)
    position = torch.where(position < kernel, position, 2 * kernel - 1 - position)
    return torch.zeros(kernel, dtype=torch.float64).scatter_add_(0, position, weights / weights.sum())


def _band(taps: Tensor, size: int) -> Tensor:
    """[size, size]: row i holds the taps around column i."""
    place = torch.arange(size, device=taps.device)
    offset = place[None, :] - place[:, None] + len(taps) // 2
    inside = (offset >= 0) & (offset < len(taps))
    return torch.where(inside, taps[offset.clamp(0, len(taps) - 1)], 0)


def running_mean(images: Tensor, ranks: Tensor, counts: Tensor) -> Tensor:
    """Replacement [P, C, H, W] in which what goes at a step takes the image's mean (all channels) before that step.

    Args:
        images: [P, C, H, W]
        ranks: [P, c, H, W]
        counts: [P, T + 1]
    """
    flat = ranks.expand_as(images).flatten(1).long()
    step = torch.searchsorted(counts[:, 1:].contiguous(), flat, right=True).clamp(max=counts.shape[1] - 2)
    zeros = torch.zeros(counts[:, 1:].shape, dtype=torch.float64, device=images.device)
    sums = zeros.scatter_add(1, step, images.flatten(1).double())
    sizes = zeros.scatter_add(1, step, torch.ones_like(flat, dtype=torch.float64))
    means, total, n = [], images.double().sum((1, 2, 3)), images[0].numel()
    for t in range(counts.shape[1] - 1):
        means.append(total / n)
        total = total - sums[:, t] + sizes[:, t] * means[-1]
    return torch.stack(means, 1).gather(1, step).view_as(images).to(images.dtype)


# -- curves -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve(Readings):
    """Readings [P, T + 1] along a removal: before the first and after each of T steps.

    Attributes:
        removed: [P, T + 1] fraction of the image's pixels (or scalars) that are gone
        valid: bool [P, T + 1]; False beyond the last unit of a pair with fewer units than others
    """

    removed: Tensor
    valid: Tensor

    def auc(self, values: Tensor) -> Tensor:
        """[P]: trapezoid over the T + 1 points divided by T (RISE), so that a constant curve c has c."""
        values = torch.where(self.valid, values, 0)
        steps = self.valid.sum(1) - 1
        last = values.gather(1, steps[:, None])[:, 0]
        return (values.sum(1) - values[:, 0] / 2 - last / 2) / steps

    def drop(self, score: Score) -> Tensor:
        """[P, T + 1]: f(x) - f(x_k)."""
        own = self.own(score)
        return own[:, :1] - own


def curve(evaluation: Evaluation, order: Order, removal: Removal) -> Curve:
    """The model's word while units are removed: most relevant first (morf), least relevant (lerf) or at random."""
    partition = units(evaluation, removal.unit, removal.grid)
    values = evaluation.relevance[:, None]
    if order == "random":
        values = _random_values(evaluation)
    ranks = partition.ranks(values, "lerf" if order == "lerf" else "morf")
    present = (partition.sizes > 0).sum(1)
    counts = removal.counts(present)
    if removal.baseline == "running_mean":
        images = evaluation.forward.images[evaluation.pairs.image]
        remove = substitute(evaluation, running_mean(images, ranks, counts))
    else:
        remove = remover(evaluation, removal)
    return trace(evaluation, ranks, counts, remove, counts <= present[:, None])


def trace(evaluation: Evaluation, ranks: Tensor, counts: Tensor, remove: Remove, valid: Tensor | None = None) -> Curve:
    """The curve of given ranks [P, c, H, W] and counts [P, T + 1]; one forward per pair and step, none for the first.

    A pair whose map holds a NaN has a NaN curve.
    """
    valid = torch.ones_like(counts, dtype=torch.bool) if valid is None else valid
    pair, step = valid[:, 1:].nonzero(as_tuple=True)
    gone = counts[pair, step + 1].int()[:, None, None, None]
    after = read(evaluation, pair, lambda rows: remove(pair[rows], ranks[pair[rows]] < gone[rows]))
    before = clean(evaluation)
    undefined = evaluation.maps.isnan().any(2).any(1)[:, None]
    columns = {}
    for name in (field.name for field in fields(Readings)):
        start: Tensor = getattr(before, name)
        column = start.new_full(counts.shape, torch.nan)
        column[:, 0] = start
        column[pair, step + 1] = getattr(after, name)
        columns[name] = column.masked_fill(undefined, torch.nan)
    return Curve(**columns, removed=_share(ranks, counts), valid=valid)


def _share(ranks: Tensor, counts: Tensor) -> Tensor:
    """[P, T + 1]: the fraction of pixels with rank < count."""
    ordered = ranks.flatten(1).sort(1).values
    return torch.searchsorted(ordered, counts.int().contiguous()) / max(ordered.shape[1], 1)


def _random_values(evaluation: Evaluation) -> Tensor:
    height, width = evaluation.forward.images.shape[-2:]
    draws = [
        torch.rand(1, height, width, generator=generator)
        for generator in evaluation.forward.generators(evaluation.pairs, "order")
    ]
    return (torch.stack(draws) if draws else torch.zeros(0, 1, height, width)).to(evaluation.maps.device)
