"""`xaibench explain`: the maps of one image file, and what VGatt's maps leave unexplained, by depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from xaibench.core.errors import IncompatibleError, SampleError, UsageError, unknown
from xaibench.core.registry import bound_method
from xaibench.data.reading.image_files import read_image
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs, Plan
from xaibench.forward.explainer import Explainer
from xaibench.models.capabilities import require
from xaibench.models.classifier import Classifier
from xaibench.models.structure import stages

MOST_LABELS = 5


@dataclass(frozen=True)
class Explained:
    """One image, the labels asked for, and a mask in [0, 1] of each method for each label.

    Attributes:
        picture: [H, W, C] in [0, 1], as the model sees it
        labels: [P] names, by confidence unless they were asked for
        confidences: [P]
        masks: [P, H, W] of each method; see `Evaluation.mask`
        notes: sentences about the image's size and the choice of labels
    """

    picture: Tensor
    labels: list[str]
    confidences: list[float]
    masks: dict[str, Tensor]
    notes: list[str]


def explain_image(path: Path, classifier: Classifier, methods: Sequence[str], labels: Sequence[str]) -> Explained:
    """Maps of an image file. No labels: the detected ones (at most 5), or else the most probable one.

    Raises:
        UsageError: an unreadable image, an unknown label or method
        IncompatibleError: a method that does not go with the model
    """
    explainers = [Explainer(bound_method(name, {})) for name in methods]
    forward, notes = forward_of(path, classifier)
    for explainer in explainers:
        if "masks" in explainer.method.entry.needs:
            raise IncompatibleError(f"method {explainer.label} reads ground-truth masks, which an image file lacks")
        require(classifier, explainer.method.entry)
        forward.expect(explainer.plan(classifier))
    pairs, choice = choose_labels(forward, labels)
    with torch.no_grad():
        masks = {
            explainer.label: Evaluation(forward, pairs, explainer(forward, pairs)).mask.cpu()
            for explainer in explainers
        }
    assert classifier.preprocess is not None
    return Explained(
        picture=classifier.preprocess.pixels(forward.images)[0].permute(1, 2, 0).clamp(0, 1).cpu(),
        labels=label_names(classifier, pairs),
        confidences=forward.probabilities[0, pairs.label].tolist(),
        masks=masks,
        notes=[*notes, *choice],
    )


def forward_of(path: Path, classifier: Classifier) -> tuple[Forward, list[str]]:
    """One image file through the model's input geometry, and what has to be said about that.

    A model without a resize rule (the bundled ones see generated images of one size) gets a picture of another size
    squashed. Raises UsageError for a file that cannot be read.
    """
    try:
        image = read_image(path)
    except SampleError as error:
        raise UsageError(str(error)) from error
    preprocess, notes = classifier.preprocess, []
    if preprocess is None:
        raise UsageError(f"model {classifier.name}: its input geometry is not known (Classifier(preprocess=...))")
    (height, width), found = preprocess.size, image.size
    if preprocess.resize == "none" and found != (width, height):
        preprocess = replace(preprocess, resize="squash")
        notes = [
            f"{path.name} is {found[0]}x{found[1]} and was squashed to {width}x{height}: {classifier.name} has no resize rule"
        ]
    parameter = next(classifier.module.parameters())
    return Forward(classifier, preprocess.image(image)[None].to(parameter), ids=[path.name]), notes


def choose_labels(forward: Forward, wanted: Sequence[str]) -> tuple[Pairs, list[str]]:
    """Pairs of the one image of `forward`, and what has to be said about them."""
    if wanted:
        found = list(dict.fromkeys(_label(forward, label) for label in wanted))
        return Pairs([0] * len(found), found), []
    by_confidence = forward.probabilities[0].argsort(descending=True, stable=True).tolist()
    detected = [label for label in by_confidence if forward.detected[0, label]]
    notes = []
    if not detected:
        notes = [f"no label is detected (p > {forward.classifier.threshold:g}); the most probable one is explained"]
    elif len(detected) > MOST_LABELS:
        notes = [f"{len(detected)} labels are detected; the {MOST_LABELS} most probable are explained"]
    chosen = detected[:MOST_LABELS] or by_confidence[:1]
    return Pairs([0] * len(chosen), chosen), notes


def _label(forward: Forward, wanted: str) -> int:
    names, count = forward.classifier.class_names, forward.logits.shape[1]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < count:
        return int(wanted)
    if names and not wanted.isdecimal():
        raise UsageError(unknown("label", wanted, names))
    raise UsageError(f"unknown label {wanted!r}; model {forward.classifier.name} has labels 0..{count - 1}")


def label_names(classifier: Classifier, pairs: Pairs) -> list[str]:
    names = classifier.class_names
    return [names[label] if names else f"label {label}" for label in pairs.label.tolist()]


# -- VGatt by depth ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """What the map of `vgatt` at one layer leaves unexplained of one label's logit."""

    depth: int
    layer: str
    label: str
    bias: float
    score: float
    ratio: float


def vgatt_by_depth(path: Path, classifier: Classifier, labels: Sequence[str]) -> tuple[list[Share], list[str]]:
    """The bias term and its share of the logit at every stage of the network, input first; one pass for all.

    In a transformer, what the class token and its like carry is no part of the map, and so counts as bias.
    """
    from xaibench.methods.vgatt import vgatt_bias

    forward, notes = forward_of(path, classifier)
    pairs, choice = choose_labels(forward, labels)
    layers = stages(classifier.module, classifier.structure.target_layer, forward.images)
    forward.expect(Plan(features=frozenset(layers[1:]), gradients=frozenset(layers)))
    names, shares = label_names(classifier, pairs), []
    with torch.no_grad():
        scores = forward.logits[0, pairs.label].tolist()
        for depth, layer in enumerate(layers):
            bias, ratio = vgatt_bias(forward, pairs, layer)
            rows = zip(names, bias.tolist(), scores, ratio.tolist(), strict=True)
            shares += [Share(depth, layer, name, b, score, r) for name, b, score, r in rows]
    return shares, [*notes, *choice]
