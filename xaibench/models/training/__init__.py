"""Multi-label fine-tuning of a timm model on a registered data set, seeded and resumable.

`xaibench train recipe.yaml` writes weights as safetensors, a card (classes, input, data, recipe, AP, F and thresholds
per class, sha256), a log as CSV and its curves. The bundled models are made this way.
"""

from xaibench.models.training.examples import Examples, augmented
from xaibench.models.training.fit import masked_bce, train
from xaibench.models.training.log import Epoch
from xaibench.models.training.quality import Quality, average_precision, evaluate
from xaibench.models.training.recipe import AugmentSection, Recipe, read_recipe

__all__ = [
    "AugmentSection", "Epoch", "Examples", "Quality", "Recipe", "augmented", "average_precision", "evaluate", "masked_bce",
    "read_recipe", "train",
]  # fmt: skip
