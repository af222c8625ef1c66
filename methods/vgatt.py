"""VGatt: value times gradient at any depth."""

from __future__ import annotations

from torch import Tensor, einsum

from xaibench.forward import Forward, Pairs
from xaibench.registry import method


@method(needs=("features", "gradients"), source="chen2020", cost="1 forward, 1 backward per label to the layer")
def vgatt(forward: Forward, pairs: Pairs, *, layer: str = "last") -> Tensor:
    """Activation times gradient, summed over channels, at any cut of the network: sum_k A_k g_k.

    The map sums to S_c minus a bias term that the layers above the cut contribute. At "input" it is input x gradient
    summed over colours, at a convolution HiResCAM; it is the same before and after a ReLU. Raw maps [P, h, w], logit
    units.
    """
    return einsum("pkhw,pkhw->phw", forward.features(layer)[pairs.image], forward.gradients(pairs, layer))
