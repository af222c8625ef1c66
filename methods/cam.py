"""Class activation mapping. A = activations of a layer [P, K, h, w], g = dS_c/dA their gradient, S_c the logit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, einsum
from torch.nn import functional as F

from xaibench.core.errors import IncompatibleError
from xaibench.core.registry import method
from xaibench.core.registry.bounds import Count, NotNegative
from xaibench.core.value_range import min_max
from xaibench.forward import Forward, Pairs


@method(
    needs=("features", "linear_head"),
    source="zhou2016, eq. 2",
    forwards="shared",
    backwards=0,
    criticism="Labels that occur together share features, so that the map of one may lie on the other (david2022).",
    elsewhere="keras-explainable has it as cam; pytorch-grad-cam has no CAM proper.",
)
def cam(forward: Forward, pairs: Pairs) -> Tensor:
    """Channels weighted by the head: sum_k W_ck A_k.

    Raw maps [P, h, w], logit units; their spatial mean plus the bias is the logit. Only for heads that are linear in
    the mean of the last features (IncompatibleError otherwise).
    """
    activations = forward.features("last")[pairs.image]
    return einsum("pk,pkhw->phw", forward.head_weight[pairs.label], activations)


@method(
    needs=("features", "gradients"),
    source="selvaraju2017, eq. 1-2",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("layer",),
    criticism="The mean over positions mixes them, so that a map may be high where the logit does not depend on the "
    "layer (draelos2020).",
    elsewhere="GradCAM in pytorch-grad-cam, LayerGradCam in captum (no ReLU by default either), gradcam in "
    "keras-explainable; all take the mean. The notebooks of MinMax-CAM take the sum, which is a scale.",
)
def grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Channels weighted by their mean gradient: sum_k mean_ij(g_k) A_k.

    Raw maps [P, h, w]; the paper's ReLU is left to the mask, as for every method.
    """
    weights = forward.gradients(pairs, layer).mean((2, 3))
    return einsum("pk,pkhw->phw", weights, forward.features(layer)[pairs.image])


@method(
    needs=("features", "gradients"),
    source="chattopadhay2018, eq. 19",
    version=2,
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("eps", "layer"),
    criticism="How its weights are derived (eq. 19) is disputed.",
    elsewhere="GradCAM++ in pytorch-grad-cam has eps = 1e-6, which is not harmless: at 7 x 7 g^2 is about 1e-7, and "
    "weights change by half. gradcampp in keras-explainable keeps exp(S_c), which overflows beyond S = 88, and has no "
    "eps.",
)
def grad_cam_pp(forward: Forward, pairs: Pairs, *, layer: str = "last", eps: NotNegative = 0.0) -> Tensor:
    """Channels weighted by sum_ij alpha relu(g), alpha = g^2 / (2 g^2 + (sum_ij A) g^3 + eps), 0 where g = 0.

    Divided through by g^2 here, because the square of a gradient below 1e-19 is 0 in float32.

    The paper has eps = 0 and the factor exp(S_c), which cancels in a normalised map and overflows beyond S = 88.
    Raw maps [P, h, w].
    """
    activations = forward.features(layer)[pairs.image]
    g = forward.gradients(pairs, layer).relu()  # relu(g) kills alpha wherever g <= 0
    damping = (eps / g) / g if eps else 0.0
    alpha = (1 / (2 + activations.sum((2, 3), keepdim=True) * g + damping)).where(g > 0, 0)
    return einsum("pkij,pkhw->phw", alpha * g, activations)


@method(
    needs=("features", "gradients"),
    source="draelos2020",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("layer",),
    elsewhere="HiResCAM in pytorch-grad-cam, whose GradCAMElementWise clips every product: sum_k relu(g_k A_k).",
)
def hires_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Activations weighted by the gradient at each position: sum_k g_k A_k. Raw maps [P, h, w], logit units."""
    return einsum("pkhw,pkhw->phw", forward.gradients(pairs, layer), forward.features(layer)[pairs.image])


@method(
    needs=("features", "gradients"),
    source="jiang2021",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("layer",),
    criticism="What speaks against the label is cut off at every position.",
    elsewhere="LayerCAM in pytorch-grad-cam.",
)
def layer_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Activations weighted by the positive gradient at each position: sum_k relu(g_k) A_k. Raw maps [P, h, w]."""
    return einsum("pkhw,pkhw->phw", forward.gradients(pairs, layer).relu(), forward.features(layer)[pairs.image])


@method(
    needs=("features", "gradients"),
    source="fu2020; pytorch-grad-cam",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("layer",),
    criticism="A channel that sums to -eps has no weight, and the map is not finite.",
    elsewhere="XGradCAM in pytorch-grad-cam, the same.",
)
def xgrad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last", eps: NotNegative = 1e-7) -> Tensor:
    """Channels weighted by their gradient averaged over where they are active: w_k = sum_ij g A / (sum_ij A + eps).

    The eps is pytorch-grad-cam's. Raw maps
    [P, h, w], logit units.
    """
    activations = forward.features(layer)[pairs.image]
    weights = (forward.gradients(pairs, layer) * activations).sum((2, 3)) / (activations.sum((2, 3)) + eps)
    return einsum("pk,pkhw->phw", weights, activations)


@method(
    needs=("features",),
    source="desai2020",
    version=2,
    forwards="shared + channels * (1 - linear_head)",
    backwards=0,
    cost="of what follows the layer; each serves all labels of the image",
    rankings_change_with=("layer",),
    criticism="The map of a label with a negative logit is turned around.",
    elsewhere="AblationCAM in pytorch-grad-cam, the same, but that it sets a channel of a layer that can be negative "
    "to -1e7 and less instead of 0.",
)
def ablation_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Channels weighted by the fraction of the logit that goes with them: w_k = (S_c - S_c without A_k) / S_c.

    A negative logit turns the map around, and a logit of 0 has no map (NaN). Raw maps [P, h, w], activation units.
    """
    activations = forward.features(layer)
    channels = torch.arange(activations.shape[1], device=activations.device)

    def without(activation: Tensor, index: Tensor) -> Tensor:
        return activation.where((channels != index[:, None])[..., None, None], 0)

    logit = forward.logits[pairs.image, pairs.label][:, None]
    ablated = forward.replaced(pairs, layer, len(channels), without)
    weights = ((logit - ablated) / logit).where(logit != 0, torch.nan)
    return einsum("pk,pkhw->phw", weights, activations[pairs.image])


@method(
    needs=("features",),
    source="muhammad2020",
    forwards="shared * (layer != 'input')",
    backwards=0,
    rankings_change_with=("layer",),
    criticism="It is the same for all labels, and the sign of a component is a convention.",
    elsewhere="EigenCAM in pytorch-grad-cam, which leaves the sign to chance.",
)
def eigen_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Projection of every position on the first principal component of the activations. The same for all labels.

    A component has no sign: the map is turned so that it grows with the summed activation. Zero mean. Raw
    maps [P, h, w].
    """
    return _first_component(forward.features(layer))[pairs.image]


@method(
    needs=("features", "gradients"),
    source="gildenblat2021, pytorch-grad-cam",
    forwards="shared",
    backwards="shared * pairs",
    rankings_change_with=("layer",),
    criticism="The sign of a component is a convention.",
    elsewhere="EigenGradCAM in pytorch-grad-cam; its SegEigenCAM takes |g| A and flips the sign where |min| > |max|.",
)
def eigen_grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """First principal component of g A (eigen_cam: of A), signed to grow with hires_cam. Raw maps [P, h, w]."""
    return _first_component(forward.gradients(pairs, layer) * forward.features(layer)[pairs.image])


def _first_component(values: Tensor) -> Tensor:
    """Projections [N, h, w] of values [N, K, h, w], centred over positions, on their first right singular vector."""
    positions = values.flatten(2).transpose(1, 2)  # [N, hw, K]
    centred = positions - positions.mean(1, keepdim=True)
    component = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]
    projection = einsum("nzk,nk->nz", centred, component)
    backwards = (projection * positions.sum(2)).sum(1, keepdim=True) < 0
    return torch.where(backwards, -projection, projection).view(len(values), *values.shape[-2:])


@method(
    needs=("features",),
    source="wang2020, alg. 1",
    forwards="shared * (layer != 'input') + channels",
    backwards=0,
    cost="each serves all labels of the image",
    rankings_change_with=("variant", "align_corners", "layer"),
    criticism="The paper's algorithm (softmax) and its text (a channel's increase) give maps that differ a lot.",
    elsewhere="ScoreCAM in pytorch-grad-cam (softmax, align_corners = True), which repeats every pass for every "
    "label. scorecam in keras-explainable makes masks before it enlarges them, and sums masks weighted by raw logits "
    "instead of activations.",
)
def score_cam(
    forward: Forward,
    pairs: Pairs,
    *,
    layer: str = "last",
    variant: Literal["softmax", "logit_diff", "sigmoid"] = "softmax",
    align_corners: bool = True,
) -> Tensor:
    """Channels weighted by the score s_k of the image times the channel's own mask: sum_k w_k A_k.

    s_k = S_c(x m_k), m_k = min-max of A_k upsampled (0 for a constant channel). `variant`: w = softmax_k(s), the
    paper's algorithm; s - S_c(0), its definition of a channel's increase, with which maps differ a lot; sigmoid(s), as
    the authors of MinMax-CAM compare with. Raw maps [P, h, w].
    """
    activations = forward.features(layer)
    images = forward.images

    def masked(rows: Tensor, channel: Tensor) -> Tensor:
        mask = F.interpolate(
            activations[rows, channel][:, None], images.shape[-2:], mode="bilinear", align_corners=align_corners
        )
        return images[rows] * min_max(mask, (2, 3))

    scores = forward.perturbed(pairs, activations.shape[1], masked)  # [P, K]
    if variant == "softmax":
        weights = scores.softmax(1)
    elif variant == "sigmoid":
        weights = scores.sigmoid()
    else:
        weights = scores - forward.classifier.logits(torch.zeros_like(images[:1]))[0, pairs.label][:, None]
    return einsum("pk,pkhw->phw", weights, activations[pairs.image])


@method(
    needs=("features", "gradients"),
    source="cai2025 (arXiv 2501.06261)",
    forwards="shared + 1",
    backwards="(shared + 2) * pairs",
    cost="the second pass keeps its graph for second derivatives",
    rankings_change_with=("layer",),
    criticism="In ReLU networks it is grad_cam at a higher price.",
    elsewhere="ShapleyCAM in pytorch-grad-cam.",
)
def shapley_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Channels weighted by mean_ij(g - H A / 2), H = d2S_c/dA2: a Shapley value to second order.

    Equal to grad_cam where logits are piecewise linear in A (ReLU networks). Raw maps [P, h, w].
    """
    weights = (forward.gradients(pairs, layer) - forward.curvature(pairs, layer) / 2).mean((2, 3))
    return einsum("pk,pkhw->phw", weights, forward.features(layer)[pairs.image])


@method(
    needs=("features", "gradients"),
    source="zhang2025finer; pytorch-grad-cam",
    forwards="shared",
    backwards="pairs",
    rankings_change_with=("alpha", "comparisons", "layer"),
    criticism="It hides a dependence on another label that the model really has: evidence that both labels share is "
    "subtracted, not shown.",
    elsewhere="FinerCAM in pytorch-grad-cam.",
)
def finer_cam(
    forward: Forward, pairs: Pairs, *, layer: str = "last", alpha: float = 1.0, comparisons: Count = 3
) -> Tensor:
    """Grad-CAM of J = S_c - alpha sum_d p_d S_d: the label against those of the nearest logits.

    d = the `comparisons` labels whose logits are nearest to S_c (all others, if there are fewer), p = softmax over
    them, itself part of the gradient: dJ/dS_d = -alpha p_d (1 + S_d - sum p S). Raw maps [P, h, w].
    """
    logits = forward.logits[pairs.image]  # [P, L]
    if logits.shape[1] < 2:
        raise IncompatibleError("finer_cam compares labels, and the model has only one")
    own = logits.gather(1, pairs.label[:, None])
    distance = (logits - own).abs().scatter(1, pairs.label[:, None], torch.inf)
    nearest = distance.argsort(dim=1, stable=True)[:, : min(comparisons, logits.shape[1] - 1)]
    similar = logits.gather(1, nearest)
    p = similar.softmax(1)
    slope = -alpha * p * (1 + similar - (p * similar).sum(1, keepdim=True))
    coefficients = torch.zeros_like(logits).scatter(1, nearest, slope).scatter(1, pairs.label[:, None], 1)
    weights = forward.combined_gradients(pairs, coefficients, layer).mean((2, 3))
    return einsum("pk,pkhw->phw", weights, forward.features(layer)[pairs.image])
