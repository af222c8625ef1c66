"""Removal of parts of an image in the order of a map: units, ranks, what a removed pixel becomes, curves of scores.

Units (pixels, grid patches or superpixels) are ranked once by their mean relevance. The image after k removals is
`where(rank < k, replacement, image)`; those images are made in chunks across pairs AND steps.

The tie rule: the sort is stable, so equal units are removed in raster order, in either direction. The pixels of a
constant map are therefore removed from the top left to the bottom right in both orders. `Evaluation.tied` is the
fraction of pixels that this rule orders.
"""

from xaibench.evaluation.perturbation.baselines import Remove, blur, remover, running_mean, substitute
from xaibench.evaluation.perturbation.curves import Curve, curve, trace
from xaibench.evaluation.perturbation.outputs import Output, Outputs, clean_outputs, outputs
from xaibench.evaluation.perturbation.removal import Baseline, Order, Removal, Replacement, Static, Unit
from xaibench.evaluation.perturbation.units import Units, units

__all__ = [
    "Baseline", "Curve", "Order", "Output", "Outputs", "Removal", "Remove", "Replacement", "Static", "Unit", "Units", "blur",
    "clean_outputs", "curve", "outputs", "remover", "running_mean", "substitute", "trace", "units",
]  # fmt: skip
