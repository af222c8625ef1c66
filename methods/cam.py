"""Class activation mapping. A = activations of a layer [P, K, h, w], g = dS_c/dA their gradient, S_c the logit."""

from __future__ import annotations

from torch import Tensor, einsum

from xaibench.forward import Forward, Pairs
from xaibench.registry import method


@method(needs=("features", "linear_head"), source="zhou2016, eq. 2", cost="1 forward")
def cam(forward: Forward, pairs: Pairs) -> Tensor:
    """Channels weighted by the head: sum_k W_ck A_k.

    Raw maps [P, h, w], logit units; their spatial mean plus the bias is the logit. Only for heads that are linear in
    the mean of the last features (IncompatibleError otherwise).
    """
    activations = forward.features("last")[pairs.image]
    return einsum("pk,pkhw->phw", forward.head_weight[pairs.label], activations)


@method(needs=("features", "gradients"), source="selvaraju2017, eq. 1-2", cost="1 forward, 1 head backward per label")
def grad_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Channels weighted by their mean gradient: sum_k mean_ij(g_k) A_k.

    Raw maps [P, h, w]; the paper's ReLU is left to the mask, as for every method.
    """
    weights = forward.gradients(pairs, layer).mean((2, 3))
    return einsum("pk,pkhw->phw", weights, forward.features(layer)[pairs.image])


@method(needs=("features", "gradients"), source="chattopadhay2018, eq. 19", cost="as grad_cam")
def grad_cam_pp(forward: Forward, pairs: Pairs, *, layer: str = "last", eps: float = 0.0) -> Tensor:
    """Channels weighted by sum_ij alpha relu(g), alpha = g^2 / (2 g^2 + (sum_ij A) g^3 + eps), 0 where g = 0.

    The paper has eps = 0 and the factor exp(S_c), which cancels in a normalised map and overflows beyond S = 88.
    pytorch-grad-cam has eps = 1e-6, which is not harmless: at 7 x 7 g^2 is about 1e-7, and weights change by half.
    Raw maps [P, h, w].
    """
    activations = forward.features(layer)[pairs.image]
    g = forward.gradients(pairs, layer).relu()  # relu(g) kills alpha wherever g <= 0
    denominator = 2 * g**2 + activations.sum((2, 3), keepdim=True) * g**3 + eps
    alpha = (g**2 / denominator).where(g > 0, 0)
    return einsum("pkij,pkhw->phw", alpha * g, activations)


@method(needs=("features", "gradients"), source="draelos2020", cost="as grad_cam")
def hires_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Every position by its own gradient: sum_k g_k A_k. Raw maps [P, h, w], logit units."""
    return einsum("pkhw,pkhw->phw", forward.gradients(pairs, layer), forward.features(layer)[pairs.image])


@method(needs=("features", "gradients"), source="jiang2021", cost="as grad_cam")
def layer_cam(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Every position by its positive gradient: sum_k relu(g_k) A_k. Raw maps [P, h, w]."""
    return einsum("pkhw,pkhw->phw", forward.gradients(pairs, layer).relu(), forward.features(layer)[pairs.image])
