"""The model's logits when a layer puts out something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.core.chunks import map_chunks
from xaibench.core.errors import UsageError
from xaibench.core.pairs import Pairs
from xaibench.forward.probes import by_pair
from xaibench.models.classifier import Classifier
from xaibench.models.structure import evaluation_mode, output_logits, ungrid

SAME_LOGITS = 1e-4  # of the largest: float32 rounding of another batch size


@dataclass(frozen=True)
class Replacement:
    """Replace the output of one layer.

    Attributes:
        layer: its dotted name
        images: [B, C, H, W]
        features: what the layer puts out, as grids [B, K, h, w]
        logits: [B, L]
    """

    classifier: Classifier
    layer: str
    images: Tensor
    features: Tensor
    logits: Tensor

    @property
    def linear(self) -> bool:
        """Whether logits are linear in the mean of the layer, so that nothing has to run."""
        structure = self.classifier.structure
        return structure.head is not None and self.layer == structure.target_layer

    def scores(self, pairs: Pairs, count: int, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Logits [P, count] of `count` versions for each pair's image.

        Only what follows the layer is run on the versions, what precedes it on the one image, where the model allows
        that; a model that reads the batch size of its input, or joins the layer with another one, is run as a whole.

        Args:
            change: makes versions: (activation [K, h, w], which version [n]) -> activations [n, K, h, w]
        """
        rows, labels, linear = torch.unique(pairs.image), torch.unique(pairs.label), self.linear
        one_image = not linear and self.follows_one_image(int(rows[0]))

        def scores_of(row: Tensor) -> Callable[[Tensor], Tensor]:
            def scores(chunk: Tensor) -> Tensor:
                versions = change(self.features[row], chunk)
                if linear:
                    shift = (versions - self.features[row]).mean((2, 3))
                    return self.logits[row, labels] + shift @ self.classifier.head_weight[labels].T
                return self.run(int(row), versions, 1 if one_image else len(chunk))[:, labels]

            return scores

        versions = torch.arange(count, device=rows.device)
        with evaluation_mode(self.classifier.module), torch.inference_mode():
            found = torch.stack([map_chunks(scores_of(row), versions, self.classifier.chunk) for row in rows])
        return by_pair(found, rows, labels, pairs)

    def run(self, row: int, versions: Tensor, copies: int) -> Tensor:
        """Logits [n, L] when the layer puts out versions [n, K, h, w], the model being run on `copies` of one image."""
        module = self.classifier.module
        layer = module.get_submodule(self.layer)
        hook = layer.register_forward_hook(lambda _, __, found: ungrid(module, versions, found))
        try:
            return output_logits(module(self.images[row].expand(copies, -1, -1, -1)))
        finally:
            hook.remove()

    def follows_one_image(self, row: int) -> bool:
        """Whether what follows the layer takes several activations where the model was given one image."""
        activation, logits = self.features[row], self.logits[row]
        try:
            with evaluation_mode(self.classifier.module), torch.inference_mode():
                found = self.run(row, torch.stack([activation, activation / 2]), 1)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, UsageError):  # shapes that do not fit, or logits of another shape
            return False
        tolerance = SAME_LOGITS * float(logits.abs().max())
        return found.shape == (2, len(logits)) and float((found[0] - logits).abs().max()) <= tolerance
