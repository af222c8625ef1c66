"""Robustness: the peers' results on the same noise, definitions written out, and what must stay as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import xaibench
from tests.support.evaluations import compute, gradient
from tests.support.golden import GOLDEN_SET
from tests.support.networks import any_classifier
from xaibench.core.errors import UsageError
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.metrics import robustness

NAMES = ("max_sensitivity", "avg_sensitivity", "relative_input_stability", "relative_output_stability")


def input_x_gradient(forward: Forward, pairs: Pairs) -> Tensor:
    return (forward.images[pairs.image] * forward.gradients(pairs, "input")).flatten(1, 2)


EXPLAINERS = {"grad": gradient, "ixg": input_x_gradient}


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("chunk", [5, 64])
def test_sensitivity_is_the_peers(explainer: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = GOLDEN_SET["noise_int8"].float() / 500
    monkeypatch.setattr(robustness, "noise", lambda evaluation, image, samples, radius: stored[image])
    forward, method = GOLDEN_SET.forward(), EXPLAINERS[explainer]
    forward.classifier.chunk = chunk
    evaluation = Evaluation(forward, GOLDEN_SET.pairs, method(forward, GOLDEN_SET.pairs), method)
    for name, keys in {
        "max_sensitivity": ("max_sensitivity_quantus", "sensitivity_max_captum"),
        "avg_sensitivity": ("avg_sensitivity_quantus",),
    }.items():
        found = compute(name, evaluation, samples=6).numpy()
        for key in keys:
            np.testing.assert_allclose(found, GOLDEN_SET.result(f"{key}/{explainer}"), atol=1e-5)


def test_every_result_of_this_family_is_covered_or_named() -> None:
    keys = {key[2:].rsplit("/", 1)[0] for key in GOLDEN_SET.arrays if key.startswith("r/") and "sensitivity" in key}
    covered = {"max_sensitivity_quantus", "sensitivity_max_captum", "avg_sensitivity_quantus"}
    assert keys - covered == {"sensitivity_n", "non_sensitivity"}, "both do_not_match: batch-dependent, two formulas"


@pytest.fixture(params=["sigmoid", "softmax"])
def evaluation(request: pytest.FixtureRequest) -> Evaluation:
    """One channel, non-square, 2, 0 and 1 labels per image, float64."""
    classifier = any_classifier(channels=1)
    classifier.module.double()
    classifier.activation = request.param
    images = torch.randn((3, 1, 5, 7), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    classifier.module[4].bias.data -= classifier.logits(images).mean(0)  # undecided, so that noise can decide
    forward = Forward(classifier, images, ids=["a", "b", "c"], seed=3)
    pairs = Pairs([2, 0, 0], [1, 0, 2])
    return Evaluation(forward, pairs, gradient(forward, pairs), gradient)


def test_twin(evaluation: Evaluation) -> None:
    """The four definitions, one pair and one noisy image at a time."""
    radius, eps = 2.0, 1e-6
    classifier, pairs = evaluation.forward.classifier, evaluation.pairs
    left_out = 0
    for p in range(3):
        image, label = int(pairs.image[p]), int(pairs.label[p])
        x = evaluation.forward.images[image]
        noise = robustness.noise(evaluation, torch.tensor([image]), 16, radius)[0]
        assert noise.abs().max() <= radius
        a, h = evaluation.maps[p], classifier.logits(x[None])[0]
        relative, ris, ros = [], [], []
        for n in noise:
            forward = Forward(classifier, (x + n)[None])
            b, g = gradient(forward, Pairs([0], [label]))[0], forward.logits[0]
            relative.append(float((a - b).norm() / a.norm()))
            if classifier.activation == "softmax":
                same = bool(g.argmax() == h.argmax())
            else:
                same = bool((g[label] > 0) == (h[label] > 0))
            left_out += not same
            if same:
                quotient = ((a - b) / a.abs().clamp(min=eps * a.abs().max())).norm()
                ris.append(float(quotient / (n / x.abs().clamp(min=eps * x.abs().max())).norm()))
                ros.append(float(quotient / (g - h).norm()))
        parameters = {"samples": 16, "radius": radius}
        found = {name: float(compute(name, evaluation, **parameters)[p]) for name in NAMES}
        expected = [max(relative), np.mean(relative), max(ris, default=np.nan), max(ros, default=np.nan)]
        np.testing.assert_allclose([found[name] for name in NAMES], expected, rtol=1e-9)
    assert left_out, "some noisy image is decided otherwise"


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_maps(evaluation: Evaluation, name: str) -> None:
    """A constant map is robust (0), an all-zero map and a NaN are undefined."""

    def constant(forward: Forward, pairs: Pairs) -> Tensor:
        values = torch.tensor([2.0, -3.0, 0.0, torch.nan], dtype=torch.float64)
        return values[pairs.label][:, None, None].expand(-1, 5, 7)

    pairs = Pairs([0, 0, 1], [0, 1, 2])
    found = compute(name, Evaluation(evaluation.forward, pairs, constant(evaluation.forward, pairs), constant))
    assert found[:2].tolist() == [0, 0]
    assert found[2].isnan()
    broken = torch.full((3, 5, 7), torch.nan, dtype=torch.float64)
    assert compute(name, Evaluation(evaluation.forward, pairs, broken, constant)).isnan().all()


def test_cost_is_shared(evaluation: Evaluation) -> None:
    """Four metrics: every noisy image is explained once for all its labels, and its logits are taken once."""
    seen = []
    handle = evaluation.forward.classifier.module.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    for name in NAMES:
        compute(name, evaluation, samples=6)
    handle.remove()
    assert sum(seen) == 2 * 6 + 2 * 6, "two images with labels, six samples: explained, and decided"


def test_nothing_is_left_behind(evaluation: Evaluation) -> None:
    classifier = evaluation.forward.classifier
    before, state = classifier.weights_hash, torch.get_rng_state()
    for name in NAMES:
        first = compute(name, evaluation)
        again = compute(name, Evaluation(evaluation.forward, evaluation.pairs, evaluation.maps, gradient))
        assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    del classifier.__dict__["weights_hash"]
    assert classifier.weights_hash == before
    assert all(parameter.grad is None for parameter in classifier.module.parameters())


def test_bad_input(evaluation: Evaluation) -> None:
    for parameters in ({"samples": 0}, {"radius": 0.0}, {"radius": -1.0}):
        with pytest.raises(UsageError, match=r"(at least 1|more than 0) is needed"):
            compute("max_sensitivity", evaluation, **parameters)
    with pytest.raises(UsageError, match="method"):
        compute("max_sensitivity", Evaluation(evaluation.forward, evaluation.pairs, evaluation.maps))
    images, pairs, maps = evaluation.forward.images, evaluation.pairs, evaluation.maps
    with pytest.raises(UsageError, match="needs method="):
        xaibench.evaluate(evaluation.forward.classifier, images, pairs, maps, ["avg_sensitivity"])


def test_api_takes_a_method_by_name(evaluation: Evaluation) -> None:
    classifier, images, pairs = evaluation.forward.classifier, evaluation.forward.images, evaluation.pairs
    maps = xaibench.explain(classifier, images, pairs, method="saliency", reduce="abs_sum")
    tables = [
        xaibench.evaluate(classifier, images, pairs, maps, ["robustness"], method=method)
        for method in (
            {"name": "saliency", "reduce": "abs_sum"},
            lambda forward, pairs: forward.gradients(pairs, "input").abs().sum(1),
        )
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["max_sensitivity"].gt(0).all()
    with pytest.raises(UsageError, match="unknown method 'salency'"):
        xaibench.evaluate(classifier, images, pairs, maps, ["robustness"], method="salency")
