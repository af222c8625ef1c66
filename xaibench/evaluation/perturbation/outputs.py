"""Model outputs of pairs on changed images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.pairs import Pairs
from xaibench.forward import Forward
from xaibench.forward.probes import probe
from xaibench.models.classifier import Classifier

Output = Literal["probability", "logit"]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Model outputs of pairs, on the clean image or on changed ones; everything is of shape [...] or [..., L].

    Attributes:
        classifier: the model, for its activation and threshold
        logits: [..., L], NaN where they are undefined
        label: the explained label [...]
        others: bool [..., L], the OTHER labels that are detected in the clean image
    """

    classifier: Classifier
    logits: Tensor
    label: Tensor
    others: Tensor

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities [..., L] in [0, 1]."""
        return self.classifier.activate(self.logits)

    @cached_property
    def logit(self) -> Tensor:
        """Logit of the explained label."""
        return self.logits.gather(-1, self.label[..., None])[..., 0]

    @cached_property
    def confidence(self) -> Tensor:
        """Probability of the explained label."""
        return self.probabilities.gather(-1, self.label[..., None])[..., 0]

    def of(self, output: Output) -> Tensor:
        """Probability or logit of the explained label."""
        return self.confidence if output == "probability" else self.logit

    def of_others(self, output: Output) -> Tensor:
        """Mean probability or logit of the other labels; NaN where there are none."""
        values = self.probabilities if output == "probability" else self.logits
        return torch.where(self.others, values, 0).sum(-1) / self.others.sum(-1)

    @cached_property
    def undefined(self) -> Tensor:
        """Whether there are no outputs, bool [...]."""
        return self.logits.isnan().any(-1)

    @cached_property
    def predicted(self) -> Tensor:
        """Label of the largest logit; meaningless where the outputs are undefined."""
        return self.logits.argmax(-1)

    @cached_property
    def decided(self) -> Tensor:
        """Decision: 1 where the explained label is still the model's, else 0; NaN where that is undefined.

        A decision is a probability above the threshold (sigmoid), or the largest one (softmax).
        """
        if self.classifier.activation == "sigmoid":
            decided = self.confidence > self.classifier.threshold
        else:
            decided = self.predicted == self.label
        return decided.to(self.logits.dtype).masked_fill(self.undefined, torch.nan)


def clean_outputs(forward: Forward, pairs: Pairs) -> Outputs:
    """Outputs [P] on the untouched images; no forward."""
    return Outputs(
        classifier=forward.classifier,
        logits=forward.logits[pairs.image],
        label=pairs.label,
        others=forward.others(pairs),
    )


def outputs(forward: Forward, pairs: Pairs, rows: Tensor, images_of: Callable[[Tensor], Tensor]) -> Outputs:
    """Outputs [n] on changed images, one forward each.

    Args:
        rows: [n], which pair each changed image belongs to
        images_of: makes the images [m, C, H, W] of some of the n at a time
    """
    index = torch.arange(len(rows), device=rows.device)
    return Outputs(
        classifier=forward.classifier,
        logits=probe(forward.classifier, index, images_of).to(forward.images.dtype),
        label=pairs.label[rows],
        others=forward.others(pairs)[rows],
    )
