"""One pass serves all; gradients are those of autograd; the module is free to work in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xaibench
from tests.support.networks import PAIRS, build, count_passes, images
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward import Forward, Pairs, Plan


def test_gradients_are_those_of_one_pair_at_a_time() -> None:
    classifier = build("cnn")
    forward = Forward(classifier, images())
    for layer in ("input", "stem.0", "conv1", "act1", "last"):
        found = forward.gradients(PAIRS, layer)
        for row, (image, label) in enumerate(zip(PAIRS.image.tolist(), PAIRS.label.tolist(), strict=True)):
            assert torch.allclose(found[row], slow_gradient(classifier, image, label, layer), atol=1e-12)


def slow_gradient(classifier: xaibench.Classifier, image: int, label: int, layer: str) -> Tensor:
    """Plain autograd on one image, no engine."""
    module = classifier.module.eval()
    x = images()[image : image + 1].clone().requires_grad_()
    kept: list[Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    name = classifier.layer_name(layer)
    handle = module.get_submodule(name).register_forward_hook(keep) if name != "input" else None
    logit = module(x)[0, label]
    if handle is not None:
        handle.remove()
    gradient = torch.autograd.grad(logit, x if name == "input" else kept[0])[0][0]
    return gradient


def test_a_suite_of_last_layer_methods_costs_one_backbone_pass() -> None:
    classifier = build("cnn")
    classifier.inspect(images())
    passes = count_passes(classifier.module)
    names = [
        "cam", "grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "minmax_cam", "d_minmax_cam", "minmax_grad_cam",
        "d_minmax_grad_cam", "vgatt",
    ]  # fmt: skip
    plan = Plan()
    methods = [xaibench.core.registry.methods[name] for name in names]
    for method in methods:
        plan = plan | Plan.of(classifier, method.needs, method.bind({}))
    forward = Forward(classifier, images(), plan=plan)
    for method in methods:
        method.function(forward, PAIRS)
    assert passes == [len(images())]


def test_a_method_that_was_not_planned_makes_it_run_again_once() -> None:
    classifier = build("cnn")
    classifier.inspect(images())
    passes = count_passes(classifier.module)
    forward = Forward(classifier, images())
    forward.features("last")
    forward.gradients(PAIRS, "last")
    forward.gradients(PAIRS, "last")
    forward.features("last")
    assert len(passes) == 2


def test_gradients_of_all_layers_come_from_the_same_backward_passes() -> None:
    classifier = build("cnn")
    backwards: list[int] = []
    last = classifier.module.fc
    last.register_full_backward_pre_hook(lambda *_: backwards.append(1))  # type: ignore[union-attr, operator]
    forward = Forward(classifier, images(), plan=Plan(gradients=frozenset({"input", "conv1"})))
    forward.gradients(PAIRS, "input")
    forward.gradients(PAIRS, "conv1")
    forward.gradients(PAIRS, "input")
    ranks = int(torch.bincount(PAIRS.image).max())
    assert len(backwards) == ranks == 5


def test_captures_survive_in_place_followers() -> None:
    """`branch += x` follows conv1 in place, and an in-place ReLU follows the addition."""
    classifier = build("cnn")
    module = classifier.module.eval()
    forward = Forward(classifier, images())
    found = forward.features("conv1")
    expected = module.conv1(module.stem(images()))  # type: ignore[operator]
    assert torch.allclose(found, expected)
    assert torch.allclose(forward.logits, module(images()))


def test_input_is_not_changed() -> None:
    classifier = build("cnn")
    x = images().clone()
    Forward(classifier, x).gradients(PAIRS, "input")
    assert torch.equal(x, images())
    assert not x.requires_grad


def test_rank_never_repeats_an_image() -> None:
    rank = PAIRS.rank()
    for r in range(int(rank.max()) + 1):
        rows = PAIRS.image[rank == r]
        assert len(rows.unique()) == len(rows)
    assert rank[PAIRS.image == 1].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda c: Forward(c, images()[0]), "images must be"),
        (lambda c: Pairs([0, 1], [0]), "one length"),
        (lambda c: xaibench.explain(c, images(), Pairs([9], [0]), method="cam"), "outside 0..7"),
        (lambda c: xaibench.explain(c, images(), Pairs([0], [6]), method="cam"), "outside 0..5"),
        (lambda c: xaibench.explain(c, images(), PAIRS, method="grad_kam"), "did you mean 'grad_cam'"),
        (lambda c: xaibench.explain(c, images(), PAIRS, method="grad_cam", layr="last"), "did you mean 'layer'"),
        (lambda c: xaibench.explain(c, images(), PAIRS, method="grad_cam", layer="conv3"), "has no layer 'conv3'"),
        (lambda c: xaibench.explain(c, images(), PAIRS, method="oracle"), "masks"),
        (lambda c: xaibench.explain(c, images(), "present", method="cam"), "needs ground-truth labels"),
        (lambda c: xaibench.explain(c, images(), PAIRS, method="saliency", reduce="mean"), "'reduce' = 'mean'"),
        (lambda c: xaibench.explain(c, images(), Pairs([0, -1], [0, 0]), method="cam"), "image -1 is outside 0..7"),
        (lambda c: xaibench.explain(c, images(), Pairs([0], [-3]), method="cam"), "label -3 is outside 0..5"),
        (lambda c: xaibench.explain(c, images(), [(0, 1)], method="cam"), "give xaibench.Pairs"),
        (lambda c: xaibench.explain(c, images(), 3, method="cam"), "give xaibench.Pairs"),
        (lambda c: xaibench.explain(c, images(), "detectd", method="cam"), "detected, present, predicted or target"),
        (lambda c: xaibench.explain(c, images().half(), PAIRS, method="cam"), "found torch.float16; write images.to"),
        (lambda c: xaibench.explain(c, images().byte(), PAIRS, method="cam"), "found torch.uint8"),
        (
            lambda c: xaibench.explain(c, images().float(), PAIRS, method="cam"),
            "are torch.float32, the model's .*float64",
        ),
        (lambda c: xaibench.explain(c, images().numpy(), PAIRS, method="cam"), "found ndarray; write torch.as_tensor"),
        (lambda c: xaibench.explain(c.module, images(), PAIRS, method="cam"), "found Net; write xaibench.Classifier"),
        (lambda c: xaibench.explain(c, images()[:, :2], PAIRS, method="cam"), r"does not take images \[2, 24, 32\]"),
    ],
)
def test_bad_input_gets_one_sentence(make: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make(build("cnn"))  # type: ignore[operator]


def test_incompatible_methods_say_why() -> None:
    with pytest.raises(IncompatibleError, match="attention"):
        xaibench.explain(build("cnn"), images(), PAIRS, method="raw_attention")
    with pytest.raises(IncompatibleError, match="not linear"):
        xaibench.explain(build("vit"), images(), PAIRS, method="cam")


def test_a_layer_that_runs_twice_is_refused() -> None:
    act = torch.nn.ReLU()
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), act, torch.nn.Conv2d(4, 4, 3), act, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).double()
    with pytest.raises(UsageError, match="more than once"):
        xaibench.explain(xaibench.Classifier(module), images(), Pairs([0], [0]), method="grad_cam", layer="1")
