"""Attention methods against the arrays of the original implementations, in float64."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import xaibench
from tests.support.golden import GoldenTransformer
from xaibench.core.errors import IncompatibleError, UsageError

TOLERANCE = 1e-6  # of the largest value; attention and gradients
LRP_TOLERANCE = 1e-5  # of each map's own largest value


def close(found: np.ndarray, reference: np.ndarray) -> None:
    assert found.shape == reference.shape
    assert np.abs(found - reference).max() <= TOLERANCE * np.abs(reference).max()


def close_maps(found: np.ndarray, reference: np.ndarray, tolerance: float = LRP_TOLERANCE) -> None:
    """[..., tokens or pixels], each map by its own largest value."""
    assert found.shape == reference.shape
    largest = np.abs(reference).max(-1, keepdims=True)
    assert largest.min() > 0
    assert (np.abs(found - reference) / largest).max() <= tolerance


def test_the_network_is_the_reference_network(transformer: GoldenTransformer) -> None:
    logits = transformer.classifier.logits(transformer.images).numpy()
    close(
        np.take_along_axis(logits, transformer.arrays["targets"], 1),
        np.take_along_axis(transformer.arrays["logits"], transformer.arrays["targets"], 1),
    )


def test_attention_matrices(transformer: GoldenTransformer) -> None:
    forward = xaibench.Forward(transformer.classifier, transformer.images)
    close(forward.attentions.numpy(), transformer.arrays["out/attention"])


def test_attention_gradients(transformer: GoldenTransformer) -> None:
    key = "out/lrp_ours__attn_grad__target0"
    if key not in transformer.arrays:
        pytest.fail(f"{key} is missing")
    forward = xaibench.Forward(transformer.classifier, transformer.images)
    first = transformer.pairs[xaibench.forward.forward.torch.arange(0, len(transformer.pairs), 3)]
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


def test_attention_grad_cam(transformer: GoldenTransformer) -> None:
    close(transformer.maps("attention_grad_cam"), transformer.arrays["out/attn_gradcam_raw"])
    emptied = np.isnan(transformer.arrays["out/attn_gradcam"]).all(-1)
    np.testing.assert_array_equal((transformer.maps("attention_grad_cam") == 0).all(-1), emptied)


def flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(*pixels.shape[:2], -1)


LRP: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"transformer_attribution__start{s}": ("transformer_lrp", {"start_layer": s}) for s in range(4)},
    **{
        f"transformer_attribution_origlrp__start{s}": ("transformer_lrp", {"start_layer": s, "rules": "orig"})
        for s in (0, 1)
    },
    **{
        f"lrp_rollout_{rules}__start{s}": ("lrp_rollout", {"start_layer": s, "rules": rules})
        for s in (0, 1)
        for rules in ("ours", "orig")
    },
    **{
        f"{layer}_{'ablation_' if gradient else ''}{rules}": (
            "partial_lrp",
            {"block": block, "gradient": gradient, "rules": rules},
        )
        for layer, block in (("last_layer", -1), ("second_layer", 1))
        for gradient in (False, True)
        for rules in ("ours", "orig")
    },
    **{f"full_lrp_{rules}": ("full_lrp", {"rules": rules}) for rules in ("ours", "orig")},
}


@pytest.mark.parametrize("key", LRP)
def test_relevance_propagation(transformer: GoldenTransformer, key: str) -> None:
    method, parameters = LRP[key]
    if f"out/{key}" in transformer.arrays:
        reference = transformer.arrays[f"out/{key}"]
        close_maps(transformer.maps(method, **parameters), flat(reference))
    else:  # block 3 exists in one network only, and full_lrp refuses a convolutional stem
        with pytest.raises(UsageError, match=r"blocks 0\.\.2|its stem"):
            transformer.maps(method, **parameters)


def test_relevance_of_every_attention_matrix(transformer: GoldenTransformer) -> None:
    from xaibench.forward.propagation.transformer_relprop import attention_relevance

    first = transformer.pairs[np.arange(0, len(transformer.pairs), 3)]
    forward = xaibench.Forward(transformer.classifier, transformer.images)
    reference = transformer.arrays["out/lrp_ours__attn_cam__target0"]
    blocks = []
    for block, relevance in attention_relevance(forward, first, rules="ours", start_layer=0):
        blocks.append(block)
        expected = reference[:, block]
        close_maps(relevance.numpy().reshape(len(first), -1), expected.reshape(len(expected), -1))
    assert blocks == list(reversed(range(reference.shape[1])))


def test_defaults_are_those_of_the_evaluation_scripts(transformer: GoldenTransformer) -> None:
    close_maps(transformer.maps("transformer_lrp"), transformer.arrays["out/transformer_attribution__start1"])
    close_maps(transformer.maps("partial_lrp"), transformer.arrays["out/last_layer_orig"])
    if not json.loads(str(transformer.arrays["config"]))["hybrid"]:
        close_maps(transformer.maps("full_lrp"), flat(transformer.arrays["out/full_lrp_orig"]))


@pytest.mark.parametrize("level", ["tokens", "pixels"])
@pytest.mark.parametrize(("rule", "tolerance"), [("epsilon", TOLERANCE), ("gamma", 1e-4)])
@pytest.mark.parametrize("method", ["attn_lrp", "cp_lrp"])
def test_modified_backward(
    transformer: GoldenTransformer, method: str, rule: str, tolerance: float, level: str
) -> None:
    key = f"out/{method.replace('_', '')}_{'eps' if rule == 'epsilon' else rule}__{level}"
    if key in transformer.arrays:
        reference = flat(transformer.arrays[key])
        if level == "tokens":
            reference = reference[..., 1:]  # the class token has no place in the map
        close_maps(transformer.maps(method, rule=rule, level=level), reference, tolerance)
    else:
        with pytest.raises(IncompatibleError, match="its stem"):
            transformer.maps(method, rule=rule, level=level)


COVERED = (
    {f"out/{key}" for key in LRP}
    | {
        f"out/{method}_{rule}__{level}"
        for method in ("attnlrp", "cplrp")
        for rule in ("eps", "gamma")
        for level in ("tokens", "pixels")
    }
    | {f"out/rollout__start{start}" for start in range(4)}
    | {"out/attention", "out/last_layer_attn", "out/attn_gradcam_raw", "out/generic_attention_mm", "logits"}
    | {"out/lrp_ours__attn_cam__target0", "out/lrp_ours__attn_grad__target0"}
)
NOT_COVERED = {
    "w/": "weights",
    "config": "description",
    "images": "input",
    "targets": "which labels",
    "out/attn_gradcam": "attn_gradcam_raw after a min-max that is 0/0 in places",
    "out/transformer_attribution__start1__upsampled_minmax": "post-processing of a map that is compared",
}


def test_every_golden_key_is_compared_or_explained(transformer: GoldenTransformer) -> None:
    left = [k for k in transformer.arrays if k not in COVERED and k not in NOT_COVERED and not k.startswith("w/")]
    assert not left
