"""`xaibench explain`: the maps of one image file, and what VGatt's maps leave unexplained, by depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from xaibench.cli import figures
from xaibench.cli.console import err, note, out
from xaibench.cli.exit_codes import naming
from xaibench.cli.figures import Explained, Share
from xaibench.core import registry
from xaibench.core.errors import IncompatibleError, SampleError, UsageError, unknown
from xaibench.core.registry import bound_method
from xaibench.data.reading.image_files import read_image
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.forward.explainer import Explainer
from xaibench.models.capabilities import require
from xaibench.models.classifier import Classifier
from xaibench.models.factory import load_classifier
from xaibench.suite import choose

MOST_LABELS = 5
NO_MASKS = "an image file lacks"


def explain(
    image: Path,
    output: Path,
    *,
    model: str,
    patterns: Sequence[str],
    labels: Sequence[str],
    all_layers: bool,
    options: Mapping[str, Any],
    device: str,
) -> None:
    """Draw the maps of an image, or with `all_layers` print and plot the bias term of `vgatt` at every depth.

    Args:
        patterns: names and globs of methods
        labels: names or indices; none: chosen by `choose_labels`
        options: arguments of `load_classifier`

    Raises:
        UsageError: an unreadable image, an unknown label, model or method, a method that does not go with the model
        MissingError: matplotlib or weights that are not there, a file that cannot be written here
    """
    if all_layers and list(patterns) != ["vgatt"]:
        raise UsageError(f"--layers all goes with --method vgatt, found --method {','.join(patterns)}")
    figures.check_output(output)
    classifier = load_classifier(model, **options, device=device)
    title = f"{image.name}, {model}" + ("" if classifier.trained else ", untrained")
    if all_layers:
        shares, notes = vgatt_by_depth(image, classifier, labels)
        figure = figures.draw_shares(shares, f"Share of the bias term in the logit: {title}")
        out().print(_share_table(shares))
    else:
        methods, notes = choose_methods(classifier, patterns)
        explained = explain_image(image, classifier, methods, labels)
        notes = [*explained.notes, *notes]
        figure = figures.draw_grid(explained, title)
    if not classifier.trained:
        notes = [*notes, f"{model} has no checkpoint, so its weights are random and its maps mean nothing"]
    for message in notes:
        note(message)
    with naming(output):
        figures.save(figure, output)
    err.print(f"written to {output}", markup=False)


def choose_methods(classifier: Classifier, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the methods that names and globs choose, and a note about those that are left out.

    A glob leaves out methods that do not go with the model. A method that is given by its name stays, so that the reason
    becomes an error.
    """
    choose("--method", list(registry.methods), patterns, "the methods")  # refuses what chooses nothing
    chosen: dict[str, None] = {}
    left_out: dict[str, None] = {}
    for pattern in patterns:
        for name in registry.methods.names(pattern):
            (chosen if name == pattern or _explains_a_file(classifier, name) else left_out)[name] = None
    names = [name for name in left_out if name not in chosen]
    notes = [f"left out, for they do not go with {classifier.name} or need more than a picture: {', '.join(names)}"]
    return list(chosen), notes if names else []


def _explains_a_file(classifier: Classifier, name: str) -> bool:
    """Whether a method goes with a model, needs no masks, and has a default for each of its parameters."""
    entry = registry.methods[name]
    try:
        require(classifier, entry, no_masks=NO_MASKS)
    except IncompatibleError:
        return False
    return not entry.problems({})


# -- maps -------------------------------------------------------------------------------------------------------------


def explain_image(path: Path, classifier: Classifier, methods: Sequence[str], labels: Sequence[str]) -> Explained:
    """Maps of an image file.

    Args:
        labels: names or indices; none: chosen by `choose_labels`

    Raises:
        UsageError: an unreadable image, an unknown label or method
        IncompatibleError: a method that does not go with the model
    """
    explainers = [Explainer(bound_method(name, {})) for name in methods]
    forward, notes = forward_of(path, classifier)
    for explainer in explainers:
        require(classifier, explainer.method.entry, no_masks=NO_MASKS)
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
    """A forward pass of one image file, and notes about how the image was resized.

    The image of another size than the model's is squashed where the model has no resize rule. (The bundled models have
    none: all images of their training have one size.)

    Raises:
        UsageError: a file that cannot be read, a model without an input geometry
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
    """Pairs of the one image of `forward`, and notes about their choice.

    Args:
        wanted: names or indices of labels; none: the detected labels, at most 5, or else the most probable label

    Raises:
        UsageError: a label that the model does not have
    """
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
    """Names [P] of the labels, `label 7` for a model without class names."""
    names = classifier.class_names
    return [names[label] if names else f"label {label}" for label in pairs.label.tolist()]


# -- VGatt by depth ---------------------------------------------------------------------------------------------------


def vgatt_by_depth(path: Path, classifier: Classifier, labels: Sequence[str]) -> tuple[list[Share], list[str]]:
    """Bias terms of `vgatt` at every stage of the network, input first, and notes as those of `explain_image`."""
    from xaibench.methods.vgatt import vgatt_bias_by_layer

    forward, notes = forward_of(path, classifier)
    pairs, choice = choose_labels(forward, labels)
    names, shares = label_names(classifier, pairs), []
    with torch.no_grad():
        scores = forward.logits[0, pairs.label].tolist()
        for depth, (layer, (bias, ratio)) in enumerate(vgatt_bias_by_layer(forward, pairs).items()):
            rows = zip(names, bias.tolist(), scores, ratio.tolist(), strict=True)
            shares += [Share(depth, layer, name, b, score, r) for name, b, score, r in rows]
    return shares, [*notes, *choice]


def _share_table(shares: Sequence[Share]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("depth", "layer", "label", "|bias|", "|score|", "ratio"):
        table.add_column(column, justify="left" if column in ("layer", "label") else "right")
    for share in shares:
        numbers = (abs(share.bias), abs(share.score), share.ratio)
        table.add_row(
            str(share.depth), escape(share.layer), escape(share.label), *(f"{number:.4g}" for number in numbers)
        )
    return table
