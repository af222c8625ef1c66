"""Metrics that explain again: ADCC."""

from __future__ import annotations

import numpy as np

from tests.metrics.golden_set import GOLDEN_SET
from xaibench.evaluation import Evaluation
from xaibench.methods.gradient import input_x_gradient
from xaibench.metrics.complexity import adcc, adcc_parts


def golden_adcc() -> Evaluation:
    forward = GOLDEN_SET.forward()

    def method(forward, pairs):
        return input_x_gradient(forward, pairs, reduce="abs_sum")

    return Evaluation(forward, GOLDEN_SET.pairs, method(forward, GOLDEN_SET.pairs), method)


def test_adcc_is_the_authors() -> None:
    evaluation = golden_adcc()
    np.testing.assert_allclose(evaluation.mask.numpy(), GOLDEN_SET["aux/adcc/map"][:, 0].numpy(), atol=1e-6)
    coherency, size, drop = adcc_parts(evaluation)
    for found, key in (
        (coherency, "coherency"),
        (size, "complexity"),
        (drop, "average_drop"),
        (adcc(evaluation), "adcc"),
    ):
        np.testing.assert_allclose(found.numpy(), GOLDEN_SET.result(f"adcc/{key}"), atol=1e-5, err_msg=key)
