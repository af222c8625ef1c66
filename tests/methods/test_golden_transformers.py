"""Attention methods against the arrays of the original implementations, in float64."""

from __future__ import annotations

import numpy as np
import pytest

import xaibench
from tests.conftest import GoldenTransformer

TOLERANCE = 1e-6


def close(found: np.ndarray, reference: np.ndarray) -> None:
    assert found.shape == reference.shape
    assert np.abs(found - reference).max() <= TOLERANCE * np.abs(reference).max()


def test_the_network_is_the_reference_network(transformer: GoldenTransformer) -> None:
    logits = transformer.classifier.logits(transformer.images).numpy()
    close(np.take_along_axis(logits, transformer.arrays["targets"], 1),
          np.take_along_axis(transformer.arrays["logits"], transformer.arrays["targets"], 1))  # fmt: skip


def test_attention_matrices(transformer: GoldenTransformer) -> None:
    forward = xaibench.Forward(transformer.classifier, transformer.images)
    close(forward.attentions.numpy(), transformer.arrays["out/attention"])


def test_attention_gradients(transformer: GoldenTransformer) -> None:
    key = "out/lrp_ours__attn_grad__target0"
    if key not in transformer.arrays:
        pytest.fail(f"{key} is missing")
    forward = xaibench.Forward(transformer.classifier, transformer.images)
    first = transformer.pairs[xaibench.forward.torch.arange(0, len(transformer.pairs), 3)]
    close(forward.attention_gradients(first).numpy(), transformer.arrays[key])


def test_raw_attention(transformer: GoldenTransformer) -> None:
    close(transformer.maps("raw_attention"), transformer.arrays["out/last_layer_attn"])


def test_rollout_from_every_block(transformer: GoldenTransformer) -> None:
    starts = [key for key in transformer.arrays if key.startswith("out/rollout__start")]
    assert len(starts) == transformer.arrays["out/attention"].shape[1]
    for key in starts:
        found = transformer.maps("attention_rollout", start_layer=int(key.removeprefix("out/rollout__start")))
        for target in range(found.shape[1]):
            close(found[:, target], transformer.arrays[key])


def test_generic_attention(transformer: GoldenTransformer) -> None:
    close(transformer.maps("generic_attention"), transformer.arrays["out/generic_attention_mm"])
