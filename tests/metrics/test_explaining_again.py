"""`Evaluation.explain`, and ADCC, which explains what is left of the image when only the mask is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import xaibench
from tests.support.golden import GOLDEN_SET
from tests.support.networks import any_classifier
from xaibench.core.errors import UsageError
from xaibench.data.dataset import VOID
from xaibench.data.ground_truth import GroundTruth
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.methods.controls import oracle, random
from xaibench.methods.gradient import input_x_gradient
from xaibench.metrics.complexity import adcc, adcc_parts


def method(forward: Forward, pairs: Pairs) -> Tensor:
    return input_x_gradient(forward, pairs, reduce="abs_sum")


@pytest.fixture
def evaluation() -> Evaluation:
    """Non-square, 2, 0 and 1 labels per image, with masks."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn((3, 3, 6, 8), generator=generator)
    mask = torch.randint(0, 4, (3, 6, 8), generator=generator).byte()
    present = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).bool()
    truth = GroundTruth(mask=mask, present=present)
    forward = Forward(any_classifier(), images, ground_truth=truth, ids=["a", "b", "c"], seed=3)
    pairs = Pairs([2, 0, 0], [1, 0, 2])
    return Evaluation(forward, pairs, method(forward, pairs), method)


# -- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_explain_is_the_method(evaluation: Evaluation, chunk: int) -> None:
    """Any number of images, pairs in any order and twice, images without a pair; one forward per image with a pair."""
    forward = evaluation.forward
    forward.classifier.chunk = chunk
    source = torch.tensor([2, 0, 1, 0])
    images = forward.images[source] + torch.arange(4)[:, None, None, None]
    pairs = Pairs([3, 0, 3, 1, 3], [2, 1, 0, 0, 2])
    seen: list[int] = []
    handle = forward.classifier.module.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    found = evaluation.explain(images, pairs, source)
    handle.remove()
    assert sum(seen) == 3
    for row in range(5):
        image = int(pairs.image[row])
        alone = Forward(forward.classifier, images[image : image + 1])
        expected = method(alone, Pairs([0], pairs.label[row : row + 1]))
        np.testing.assert_allclose(found[row].numpy(), expected[0].numpy(), atol=1e-5)
    assert evaluation.explain(images, Pairs([], []), source).shape == (0, 6, 8)


def test_explain_lends_ids_masks_and_labels(evaluation: Evaluation) -> None:
    """Methods that draw, or that read the ground truth, see their own sample."""
    forward, source = evaluation.forward, torch.tensor([2, 1, 0])
    pairs = Pairs([0, 2], [1, 2])
    for control in (random, oracle):
        again = Evaluation(forward, evaluation.pairs, evaluation.maps, control)
        found = again.explain(forward.images[source], pairs, source)
        assert torch.equal(found, control(forward, Pairs(source[pairs.image], pairs.label)))

    def labels(changed: Forward, pairs: Pairs) -> Tensor:
        present = changed.ground_truth.labels_for("the test")
        return present[pairs.image].float()[:, None]

    found = Evaluation(forward, evaluation.pairs, evaluation.maps, labels).explain(
        forward.images[source], pairs, source
    )
    assert found[:, 0].tolist() == [[0, 1, 0], [1, 0, 1]]


def test_shared_results_are_computed_once(evaluation: Evaluation) -> None:
    calls: list[int] = []
    for _ in range(2):
        assert evaluation.share("key", lambda: calls.append(1) or 5) == 5  # type: ignore[func-returns-value]
    assert calls == [1]


# -- ADCC -------------------------------------------------------------------------------------------------------------


def test_adcc_is_the_authors() -> None:
    forward = GOLDEN_SET.forward()
    evaluation = Evaluation(forward, GOLDEN_SET.pairs, method(forward, GOLDEN_SET.pairs), method)
    np.testing.assert_allclose(evaluation.mask.numpy(), GOLDEN_SET["aux/adcc/map"][:, 0].numpy(), atol=1e-6)
    coherency, size, drop = adcc_parts(evaluation)
    found = {"coherency": coherency, "complexity": size, "average_drop": drop, "adcc": adcc(evaluation)}
    for key, values in found.items():
        np.testing.assert_allclose(values.numpy(), GOLDEN_SET.result(f"adcc/{key}"), atol=1e-5, err_msg=key)
    assert {key for key in GOLDEN_SET.arrays if key.startswith("r/adcc/")} == {f"r/adcc/{key}" for key in found}


@pytest.mark.parametrize("value", [0.0, 3.0, -1.0, torch.nan])
def test_adcc_needs_contrast(evaluation: Evaluation, value: float) -> None:
    maps = torch.full_like(evaluation.maps, value)
    assert adcc(Evaluation(evaluation.forward, evaluation.pairs, maps, method)).isnan().all()


def test_adcc_needs_the_method(evaluation: Evaluation) -> None:
    forward, pairs, maps = evaluation.forward, evaluation.pairs, evaluation.maps
    with pytest.raises(UsageError, match="needs the method"):
        adcc(Evaluation(forward, pairs, maps))
    arguments: tuple[Any, ...] = (forward.classifier, forward.images, pairs, maps, ["adcc"])
    with pytest.raises(UsageError, match="needs method="):
        xaibench.evaluate(*arguments)
    assert xaibench.evaluate(*arguments, method=method)["adcc"].between(0, 1).all()


def test_void_is_no_label() -> None:
    """The ground truth that `explain` lends is that of the batch, void included."""
    mask = torch.full((1, 4, 4), VOID, dtype=torch.uint8)
    forward = Forward(any_classifier(), torch.zeros((1, 3, 4, 4)), ground_truth=GroundTruth(mask=mask))
    evaluation = Evaluation(forward, Pairs([0], [0]), torch.zeros((1, 4, 4)), oracle)
    assert evaluation.explain(forward.images, Pairs([0], [0]), torch.tensor([0])).sum() == 0
