"""The model on changed images, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from xaibench.core.chunks import map_chunks
from xaibench.core.pairs import Pairs
from xaibench.models.classifier import Classifier
from xaibench.models.structure import evaluation_mode


def probe(
    classifier: Classifier, rows: Tensor, images_of: Callable[[Tensor], Tensor], labels: Tensor | None = None
) -> Tensor:
    """Logits [n, L] of n changed images, one forward each, without a graph.

    Args:
        rows: [n], which changed images there are
        images_of: makes the images [m, C, H, W] of some of the rows at a time
        labels: [l], the only ones whose logits are kept: [n, l]; None: all
    """

    def logits(chunk: Tensor) -> Tensor:
        found = classifier.bare_logits(images_of(chunk))
        return found if labels is None else found[:, labels]

    if not len(rows):
        return rows.new_zeros((0, classifier.structure.labels if labels is None else len(labels)), dtype=torch.float32)
    with evaluation_mode(classifier.module), torch.inference_mode():
        found = map_chunks(logits, rows, classifier.chunk)
    return found.clone()  # an inference tensor could not be changed in place, nor be part of a graph


def probe_pairs(
    classifier: Classifier,
    pairs: Pairs,
    count: int,
    change: Callable[[Tensor, Tensor], Tensor],
    output: Literal["logits", "probabilities"],
) -> Tensor:
    """Outputs [P, count] of `count` changed versions of each pair's image, see `Forward.perturbed`."""
    rows, labels = torch.unique(pairs.image), torch.unique(pairs.label)
    versions = torch.arange(len(rows) * count, device=rows.device)

    def images_of(chunk: Tensor) -> Tensor:
        return change(rows[chunk // count], chunk % count)

    if output == "logits":
        found = probe(classifier, versions, images_of, labels)
    else:  # softmax reads all labels
        found = classifier.activate(probe(classifier, versions, images_of).double())[:, labels]
    return by_pair(found.view(len(rows), count, len(labels)), rows, labels, pairs)


def by_pair(found: Tensor, rows: Tensor, labels: Tensor, pairs: Pairs) -> Tensor:
    """[P, count] of values [n, count, l] of the sorted `rows` [n] and `labels` [l] that occur in pairs."""
    return found[torch.searchsorted(rows, pairs.image), :, torch.searchsorted(labels, pairs.label)]
