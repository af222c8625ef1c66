"""What a model offers to methods, and why it does not offer the rest: the one compatibility check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from xaibench.core.errors import IncompatibleError
from xaibench.core.registry import NEEDS, Method
from xaibench.models.classifier import Classifier
from xaibench.models.structure import has_only_relu
from xaibench.models.timm_vit import find_attention, find_blocks, find_patch_embedding

OF_THE_DATA = ("masks",)
OF_A_METRIC = ("method",)


def offers(classifier: Classifier) -> set[str]:
    """The keys of `xaibench.core.registry.NEEDS` that a model has."""
    return {need for need in NEEDS if need not in (*OF_THE_DATA, *OF_A_METRIC) and lacking(classifier, [need]) is None}


def lacking(classifier: Classifier, needs: Iterable[str]) -> str | None:
    """Why a model does not offer all of `needs`, as a clause; None where it does. Needs of the data do not count."""
    for need in needs:
        try:
            CHECKS.get(need, _always)(classifier)
        except IncompatibleError as error:
            return error.message
    return None


def require(classifier: Classifier, method: Method, *, no_masks: str | None = None) -> None:
    """Raise IncompatibleError where a method does not go with a model, or not with images that have no masks.

    Args:
        no_masks: which images have no ground-truth masks, as the end of a relative clause: "an image file lacks"
    """
    if no_masks is not None and "masks" in method.needs:
        raise IncompatibleError(f"method {method.name} reads ground-truth masks, which {no_masks}")
    if (reason := lacking(classifier, method.needs)) is not None:
        raise IncompatibleError(f"method {method.name} does not go with {classifier.name}: {reason}")


# -- a check for each need: IncompatibleError with a clause where it is not met -----------------------------------------


def _always(classifier: Classifier) -> None:
    """Every network offers this."""


def _linear_head(classifier: Classifier) -> None:
    if classifier.structure.head is None:
        layer = classifier.structure.target_layer
        raise IncompatibleError(f"its head is not linear in the mean of its last features ({layer})")


def _any_size(classifier: Classifier) -> None:
    """timm's transformers embed patches on a grid of fixed size unless `dynamic_img_size` is on."""
    embed = getattr(classifier.module, "patch_embed", None)
    if embed is not None and bool(getattr(embed, "strict_img_size", True)):
        raise IncompatibleError("it takes images of one size only")


def _relu(classifier: Classifier) -> None:
    if not has_only_relu(classifier.module):
        raise IncompatibleError("it has activations other than ReLU")


CHECKS: Mapping[str, Callable[[Classifier], object]] = {
    "linear_head": _linear_head,
    "attention": lambda classifier: find_attention(classifier.module),
    "attention_gradients": lambda classifier: find_attention(classifier.module),
    "transformer_blocks": lambda classifier: find_blocks(classifier.module),
    "patch_embedding": lambda classifier: find_patch_embedding(classifier.module),
    "any_size": _any_size,
    "relu": _relu,
}
