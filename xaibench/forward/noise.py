"""Noisy versions of the images of a batch."""

from __future__ import annotations

from torch import Tensor

from xaibench.core.value_range import span
from xaibench.forward.forward import Forward


def noisy(forward: Forward, name: str, sigma: float) -> Tensor:
    """Images plus normal noise of standard deviation sigma · (max x - min x) of each image: [B, C, H, W].

    Args:
        name: what the noise is drawn for; seeded by (suite seed, sample id, name), the same for all labels of an image
    """
    images = forward.images
    return images + sigma * span(images, (1, 2, 3)) * forward.draw(name, *images.shape[1:], kind="normal")
