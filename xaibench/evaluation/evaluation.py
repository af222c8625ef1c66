"""`Evaluation`: one explained batch, memoised, that all metrics share.

Two views of a map are made here, never by a method or a metric: `mask` (a soft region to keep or remove) and
`relevance` (a ranking over pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from xaibench.core.chunks import map_chunks
from xaibench.core.errors import UsageError
from xaibench.core.rank_statistics import comparable, tied
from xaibench.core.value_range import min_max
from xaibench.evaluation.perturbation import Curve, Order, Outputs, Removal, clean_outputs, curve, outputs
from xaibench.forward import Forward, Pairs
from xaibench.forward.forward import Labels
from xaibench.models.classifier import Classifier

Normalise = Literal["native", "resized"]
Space = Literal["model", "pixels"]
Explain = Callable[[Forward, Pairs], Tensor]  # a method with its parameters: raw maps [P, h, w]
T = TypeVar("T")


class Evaluation:
    """Maps of pairs, and all that metrics read about them.

    Args:
        forward: the batch
        pairs: [P]
        maps: raw maps [P, h, w] of those pairs; a map with a value that is not finite is undefined, and NaN everywhere
        method: what made the maps, for metrics that explain again; None: they refuse
    """

    def __init__(self, forward: Forward, pairs: Pairs, maps: Tensor, method: Explain | None = None) -> None:
        if maps.ndim != 3 or len(maps) != len(pairs):
            raise UsageError(f"maps must be [P, h, w] with P = {len(pairs)} pairs, found {tuple(maps.shape)}")
        if not maps.is_floating_point():
            raise UsageError(f"maps must be floating point, found {maps.dtype}")
        self.forward, self.pairs = forward, pairs
        self.defined = maps.isfinite().flatten(1).all(1)  # bool [P]: where a metric of the map can have a value
        self.maps = maps.masked_fill(~self.defined[:, None, None], torch.nan)
        self._method = method
        self._shared: dict[Hashable, Any] = {}
        self._probes: dict[tuple[str, str, str], Outputs] = {}
        self._curves: dict[tuple[Order, Removal], Curve] = {}

    # -- views of the maps --------------------------------------------------------------------------------------

    @cached_property
    def relevance(self) -> Tensor:
        """Raw maps resized to [P, H, W], bilinear (align_corners=False)."""
        return self._resize(self.maps)

    @cached_property
    def mask(self) -> Tensor:
        """Soft masks [P, H, W] in [0, 1]: ReLU, min-max at native resolution, then bilinear; not normalised again.

        All 0 where the map has no positive value; a constant positive map has no min-max and becomes 0 as well.
        """
        return self.mask_of(self.maps)

    def mask_of(self, maps: Tensor) -> Tensor:
        """Soft masks, as `mask`, of other raw maps [n, h, w], in the precision of the images."""
        return self._resize(min_max(maps.relu(), (1, 2))).to(self.forward.images.dtype)

    def _resize(self, maps: Tensor) -> Tensor:
        size = self.forward.images.shape[-2:]
        if maps.shape[-2:] == size:
            return maps
        return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    @cached_property
    def ranked(self) -> Tensor:
        """Relevance float32 [P, H, W] as rankings compare it; see `xaibench.core.rank_statistics.comparable`."""
        return comparable(self.relevance.flatten(1)).view(self.relevance.shape)

    @cached_property
    def tied(self) -> Tensor:
        """Fraction [P] of pixels whose relevance another pixel has, too; the tie rule of rankings orders them."""
        return tied(self.relevance.flatten(1))

    # -- model outputs ------------------------------------------------------------------------------------------

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities [P, L] on the untouched image of each pair."""
        return self.forward.probabilities[self.pairs.image]

    @cached_property
    def confidence(self) -> Tensor:
        """Probability [P] of each pair's label."""
        return self.probabilities.gather(1, self.pairs.label[:, None])[:, 0]

    def others(self, labels: Labels = "detected") -> Tensor:
        """Labels, bool [P, L], of each pair's image, detected or present, without the pair's own."""
        return self.forward.others(self.pairs, labels)

    @property
    def keep(self) -> Outputs:
        """Outputs on the image times the mask: only the explained region stays."""
        return self.probe("keep")

    @property
    def drop(self) -> Outputs:
        """Outputs on the image times (1 - mask): the explained region is removed."""
        return self.probe("drop")

    def probe(self, part: Literal["keep", "drop"], normalise: Normalise = "native", space: Space = "model") -> Outputs:
        """Outputs on x * m ("keep") or x * (1 - m) ("drop"), one forward per pair; metrics of equal arguments share it.

        Args:
            normalise: "native" is `mask`; "resized" resizes the ReLU'd map first and min-maxes then (its maximum is 1)
            space: multiply in "model" space (removed = 0 after normalisation, the mean colour) or in "pixels"
                (removed = black)
        """
        key = (part, normalise, space)
        if key not in self._probes:
            mask = self.mask
            if normalise == "resized":
                mask = min_max(self._resize(self.maps.relu()), (1, 2)).to(self.forward.images.dtype)
            self._probes[key] = self._masked(mask if part == "keep" else 1 - mask, space)
        return self._probes[key]

    def _masked(self, weight: Tensor, space: Space) -> Outputs:
        classifier, images = self.forward.classifier, self.forward.images
        rows = torch.arange(len(self.pairs), device=images.device)

        def masked(chunk: Tensor) -> Tensor:
            return images[self.pairs.image[chunk]] * weight[chunk, None]

        def masked_pixels(chunk: Tensor) -> Tensor:
            preprocess = classifier.preprocess
            if preprocess is None:
                raise UsageError("space: pixels needs the model's normalisation (Classifier(preprocess=...))")
            pixels = preprocess.pixels(images[self.pairs.image[chunk]])
            return preprocess.normalise(pixels * weight[chunk, None])

        return self.outputs(masked if space == "model" else masked_pixels, rows)

    def outputs(self, images_of: Callable[[Tensor], Tensor], rows: Tensor) -> Outputs:
        """Outputs [n] on changed images, one forward for each of `rows` [n], which are pairs in any order.

        Args:
            images_of: makes the images [m, C, H, W] of some rows at a time
        """
        return outputs(self.forward, self.pairs, rows, lambda index: images_of(rows[index]))

    @cached_property
    def clean(self) -> Outputs:
        """Outputs [P] on the untouched images."""
        return clean_outputs(self.forward, self.pairs)

    def curve(self, order: Order = "morf", removal: Removal | None = None) -> Curve:
        """Outputs while units are removed in the map's order, shared by all metrics of equal arguments.

        Inserting the most relevant units first is the `lerf` curve read backwards.
        """
        key = (order, removal or Removal())
        if key not in self._curves:
            self._curves[key] = curve(self.forward, self.pairs, self.relevance, *key)
        return self._curves[key]

    # -- explaining again ---------------------------------------------------------------------------------------

    @property
    def method(self) -> Explain:
        """Method that made the maps."""
        if self._method is None:
            raise UsageError("this metric explains again: it needs the method, not only its maps (method=)")
        return self._method

    def explain(self, images: Tensor, pairs: Pairs, source: Tensor, classifier: Classifier | None = None) -> Tensor:
        """Maps [P', h, w] of changed images, or of a changed model, by the method that made the maps.

        Args:
            images: [N, C, H, W], any number of changed images
            pairs: [P'], their `image` being rows of `images`
            source: [N] row of the batch that each image comes from; it lends its id (hence its random draws) and its
                ground truth
            classifier: the changed model; None: the model under evaluation
        """
        forward, classifier = self.forward, classifier or self.forward.classifier
        if not len(pairs):
            return self.maps[:0]
        used, row = torch.unique(pairs.image, return_inverse=True)
        order = row.argsort(stable=True)
        ordered = Pairs(row[order], pairs.label[order])

        def part(rows: Tensor) -> Tensor:
            """Maps of the pairs of consecutive rows of `used`."""
            own = ordered[(ordered.image >= rows[0]) & (ordered.image <= rows[-1])]
            origin = source[used[rows]]
            changed = Forward(
                classifier,
                images[used[rows]],
                ground_truth=forward.ground_truth[origin],
                ids=[forward.ids[i] for i in origin.tolist()],
                seed=forward.seed,
            )
            return self.method(changed, Pairs(own.image - rows[0], own.label)).detach()

        maps = map_chunks(part, torch.arange(len(used), device=images.device), classifier.chunk)
        return maps[order.argsort()]

    def share(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Result of `compute`, computed once for all metrics that name the same `key`."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]  # type: ignore[no-any-return]

    # -- ground truth -------------------------------------------------------------------------------------------

    @cached_property
    def truth(self) -> Tensor:
        """Pixels of the pair's label, without void, bool [P, H, W]."""
        return self.forward.ground_truth.of(self.pairs)

    @cached_property
    def valid(self) -> Tensor:
        """Pixels that are not void, bool [P, H, W]."""
        if self.forward.ground_truth.mask is None:
            return torch.ones(self.relevance.shape, dtype=torch.bool, device=self.maps.device)
        return self.forward.ground_truth.valid[self.pairs.image]
