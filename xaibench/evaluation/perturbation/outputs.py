"""What the model says of changed images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from xaibench.core.chunks import map_chunks

if TYPE_CHECKING:
    from xaibench.evaluation import Evaluation

Score = Literal["probability", "logit"]


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
