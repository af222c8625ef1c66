"""Equalities between methods that follow from their definitions, on any network."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

import xaibench
from tests.support.golden import Golden, assert_maps_equal
from xaibench.forward import Pairs

EXACT = 1e-10


def test_one_map_under_five_names_at_the_last_layer(cnn: Golden) -> None:
    """A network that ends in a mean and a linear layer has HiResCAM = VGatt = Grad-CAM = CAM / hw."""
    cam = cnn.maps("cam")
    positions = cam.shape[-2] * cam.shape[-1]
    for method in ("grad_cam", "hires_cam", "vgatt"):
        assert_maps_equal(cnn.maps(method), cam / positions, EXACT)


def test_one_detected_label_makes_minmax_cam_equal_cam(cnn: Golden) -> None:
    lone = np.nonzero(cnn.arrays["detected"].sum(1) == 1)[0]
    images = torch.tensor(lone if len(lone) else [0])
    threshold = cnn.classifier.threshold
    if not len(lone):  # raise the threshold until one label is left
        top = cnn.arrays["probs"][0]
        cnn.classifier.threshold = float(np.sort(top)[-2:].mean())
    try:
        batch = cnn.images[images]
        pairs = xaibench.Pairs.where(xaibench.Forward(cnn.classifier, batch).detected)
        assert len(pairs) == len(images)
        cam = xaibench.explain(cnn.classifier, batch, pairs, method="cam")
        positions = cam.shape[-2] * cam.shape[-1]
        for method, scale in (
            ("minmax_cam", 1),
            ("d_minmax_cam", 1),
            ("minmax_grad_cam", positions),
            ("d_minmax_grad_cam", positions),
        ):
            maps = xaibench.explain(cnn.classifier, batch, pairs, method=method)
            grad = method.endswith("grad_cam")
            torch.testing.assert_close(maps, cam if grad else cam * scale, rtol=1e-9, atol=1e-12)
    finally:
        cnn.classifier.threshold = threshold


def test_completeness_of_vgatt(cnn: Golden) -> None:
    """The map sums to the logit minus the bias term; at the last layer that is exactly the head's bias."""
    logits = cnn.arrays["logits"].astype(float)
    for layer in ("input", "mid", "last"):
        name = cnn.layers["mid"] if layer == "mid" else layer
        bias = logits - cnn.maps("vgatt", layer=name).sum((-2, -1))
        np.testing.assert_allclose(bias, cnn.arrays[f"vgatt/{layer}/bias"], atol=1e-4)
    head = cnn.classifier.module.get_submodule(cnn.layers["head"]).bias.detach().numpy()
    exact = cnn.classifier.logits(cnn.images).numpy() - cnn.maps("vgatt").sum((-2, -1))
    np.testing.assert_allclose(exact, np.broadcast_to(head, exact.shape), atol=1e-10)


def test_vgatt_at_the_input_is_input_x_gradient(cnn: Golden) -> None:
    assert_maps_equal(cnn.maps("vgatt", layer="input"), cnn.maps("input_x_gradient"), EXACT)


def test_grad_cam_pp_of_the_paper_in_plain_loops(cnn: Golden) -> None:
    """A slow twin of eq. 19, position by position."""
    forward = xaibench.Forward(cnn.classifier, cnn.images)
    pairs = cnn.every_pair
    a, g = forward.features("last"), forward.gradients(pairs, "last")
    found = cnn.maps("grad_cam_pp")
    for row in range(0, len(pairs), 7):
        image, label = int(pairs.image[row]), int(pairs.label[row])
        slow = torch.zeros(a.shape[-2:], dtype=a.dtype)
        for k in range(a.shape[1]):
            weight = 0.0
            for i in range(a.shape[2]):
                for j in range(a.shape[3]):
                    d = float(g[row, k, i, j])
                    alpha = d**2 / (2 * d**2 + float(a[image, k].sum()) * d**3) if d != 0 else 0.0
                    weight += alpha * max(d, 0.0)
            slow += weight * a[image, k]
        np.testing.assert_allclose(found[image, label], slow.numpy(), rtol=1e-9, atol=1e-12)


def test_grad_cam_pp_of_tiny_gradients() -> None:
    """The square of a gradient below 1e-19 is 0 in float32; the map is linear in gradients that small."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False)
    ).eval()
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = []
    for scale in (1e-9, 1e-20):
        classifier = xaibench.Classifier(copy.deepcopy(module), layer="1")
        classifier.module[4].weight.data *= scale
        maps.append(xaibench.explain(classifier, images, Pairs([0], [1]), method="grad_cam_pp") / scale)
    assert maps[0].abs().max() > 1e-5
    torch.testing.assert_close(maps[1], maps[0])
