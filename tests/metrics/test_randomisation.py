"""Randomisation: the peers' results with the same random weights and labels, twins, and an untouched model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import xaibench
from tests.support.evaluations import compute, gradient
from tests.support.golden import GOLDEN_SET
from tests.support.networks import any_classifier
from xaibench.core.errors import UsageError
from xaibench.core.rank_statistics import pearson, spearman
from xaibench.core.registry import metrics
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.methods.cam import cam
from xaibench.methods.controls import edges
from xaibench.metrics import randomisation

NAMES = ("mprt", "efficient_mprt", "random_logit")
NOT_COVERED = {
    "mprt/spearman_average": "averages in the model as it was (do_not_match)",
    "mprt/ssim": "divides maps by the maximum of the batch; our ssim itself is compared on those values",
    "random_logit/ssim": "divides maps by the maximum of the batch; our ssim itself is compared on those values",
}


def stored_weights(layer: nn.Module, name: str, seed: int) -> None:
    with torch.no_grad():
        for key, parameter in layer.named_parameters():
            parameter.copy_(GOLDEN_SET[f"aux/mprt/w/{name}.{key}"])


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    monkeypatch.setattr(randomisation, "redraw", stored_weights)
    monkeypatch.setattr(randomisation, "other_labels", lambda evaluation: GOLDEN_SET["aux/random_logit/y_off"])
    forward = GOLDEN_SET.forward()
    return Evaluation(forward, GOLDEN_SET.pairs, gradient(forward, GOLDEN_SET.pairs), gradient)


def test_cascade_is_the_peers(golden: Evaluation) -> None:
    """The maps after each layer, then both correlations of their absolute values."""
    for depth, maps in enumerate(randomisation.randomised_maps(golden, 3)):
        expected = GOLDEN_SET[f"aux/mprt/grad_after/{depth}"].flatten(1, 2)
        np.testing.assert_allclose(maps.numpy(), expected.numpy(), atol=1e-6)
    for similarity in ("spearman", "pearson"):
        found = compute("mprt", golden, similarity=similarity, layers=3).numpy()
        np.testing.assert_allclose(found.T, GOLDEN_SET.result(f"mprt/{similarity}/grad")[1:], atol=1e-5)
    last = compute("mprt", golden, layers=1)[:, 0].numpy()
    np.testing.assert_allclose(last, GOLDEN_SET.result("mprt/spearman_last/grad"), atol=1e-5)
    np.testing.assert_allclose(
        compute("efficient_mprt", golden).numpy(), GOLDEN_SET.result("efficient_mprt/grad"), atol=1e-5
    )


def test_random_logit_is_the_peers(golden: Evaluation) -> None:
    for similarity in ("spearman", "pearson"):
        found = compute("random_logit", golden, similarity=similarity).numpy()
        np.testing.assert_allclose(found, GOLDEN_SET.result(f"random_logit/{similarity}/grad"), atol=1e-5)


def test_ssim_is_the_peers_on_their_values() -> None:
    """A map of one row has windows of 1 x 7, the peer's; it divides by the maximum over the batch."""
    before = GOLDEN_SET["aux/expl/grad"].abs().flatten(1)[:, None]
    for depth in range(3):
        after = GOLDEN_SET[f"aux/mprt/grad_after/{depth}"].abs().flatten(1)[:, None]
        found = randomisation.ssim(before / before.max(), after / after.max()).numpy()
        np.testing.assert_allclose(found, GOLDEN_SET.result("mprt/ssim/grad")[depth + 1], atol=1e-5)


def test_every_result_of_these_families_is_covered_or_named() -> None:
    keys = {key[2:].removesuffix("/grad") for key in GOLDEN_SET.arrays if key.startswith("r/")}
    ours = {key for key in keys if key.startswith(("mprt", "efficient_mprt", "random_logit"))}
    covered = {"mprt/spearman", "mprt/pearson", "mprt/spearman_last", "efficient_mprt"}
    assert ours == covered | {"random_logit/spearman", "random_logit/pearson"} | set(NOT_COVERED)


# -- similarities -----------------------------------------------------------------------------------------------------


def test_correlations_are_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 5, (2, 3, 40), generator=generator).float()
    for row in range(3):
        assert float(spearman(a, b)[row]) == pytest.approx(scipy.stats.spearmanr(a[row], b[row]).statistic)
        assert float(pearson(a, b)[row]) == pytest.approx(scipy.stats.pearsonr(a[row], b[row]).statistic)


def test_ssim_twin() -> None:
    """Every window written out, on maps smaller and larger than it."""
    generator = torch.Generator().manual_seed(0)
    for height, width in ((9, 12), (4, 8), (1, 20)):
        a, b = torch.randn((2, 1, height, width), generator=generator, dtype=torch.float64)
        span = float(torch.stack([a, b]).max() - torch.stack([a, b]).min())
        rows, columns = min(7, height), min(7, width)
        values = []
        for y in range(height - rows + 1):
            for x in range(width - columns + 1):
                p, q = (m[0, y : y + rows, x : x + columns].flatten().numpy() for m in (a, b))
                covariance = np.cov(p, q)
                c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
                luminance = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
                values.append(luminance * (2 * covariance[0, 1] + c2) / (covariance[0, 0] + covariance[1, 1] + c2))
        assert float(randomisation.ssim(a, b)) == pytest.approx(np.mean(values), abs=1e-12)
        assert float(randomisation.ssim(a, a)) == pytest.approx(1)


def test_histogram_entropy_is_numpys() -> None:
    maps = torch.randn((3, 8, 9), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [scipy.stats.entropy(np.histogram(m, bins=100)[0]) for m in maps.numpy()]
    np.testing.assert_allclose(randomisation.histogram_entropy(maps).numpy(), expected, atol=1e-12)


# -- the random model -------------------------------------------------------------------------------------------------


class Norms(nn.Module):
    """Layers of every sort that is or is not drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 4, 1, 1), 0.3))
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.act(self.norm(self.conv(x)) + self.token)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


@pytest.fixture
def norms() -> xaibench.Classifier:
    module = Norms()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.norm.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        module.norm.running_var.fill_(2.5)
    return xaibench.Classifier(module, layer="act")


def test_what_becomes_random(norms: xaibench.Classifier) -> None:
    """Top down, cumulatively: head, normalisation, convolution; bounds of the draw; what keeps its value."""
    norms.inspect(torch.zeros(1, 3, 6, 5))
    original = {key: value.clone() for key, value in norms.module.state_dict().items()}
    changed = []
    for classifier in randomisation.cascade(norms, 3, seed=7):
        state = {key: value.clone() for key, value in classifier.module.state_dict().items()}
        changed.append({key for key in state if not torch.equal(state[key], original[key])})
    head, norm = {"head.weight", "head.bias"}, {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert changed == [head, head | norm, head | norm | {"conv.weight", "conv.bias"}]
    assert state["norm.weight"].tolist() == [1] * 4
    assert state["norm.bias"].tolist() == state["norm.running_mean"].tolist() == [0] * 4
    weight = state["conv.weight"] * 27**0.5
    assert weight.abs().max() <= 1
    assert weight.std() == pytest.approx(3**-0.5, abs=0.08)
    assert state["conv.bias"].abs().max() <= 27**-0.5
    again = [c.weights_hash for c in randomisation.cascade(norms, 1, seed=7)]
    other = [c.weights_hash for c in randomisation.cascade(norms, 1, seed=8)]
    assert again != other
    assert again == [c.weights_hash for c in randomisation.cascade(norms, 1, seed=7)]
    assert {key: value.tolist() for key, value in norms.module.state_dict().items()} == {
        key: value.tolist() for key, value in original.items()
    }


def test_depths_are_spread_over_the_layers(norms: xaibench.Classifier) -> None:
    norms.inspect(torch.zeros(1, 3, 6, 5))
    assert [len(list(randomisation.cascade(norms, depths, 0))) for depths in (1, 2, 3, 9)] == [1, 2, 3, 3]


@pytest.fixture
def evaluation(norms: xaibench.Classifier) -> Evaluation:
    norms.module.double()
    images = torch.randn((3, 3, 6, 8), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    forward = Forward(norms, images, ids=["a", "b", "c"], seed=3)
    pairs = Pairs([2, 0, 0], [1, 0, 2])
    return Evaluation(forward, pairs, gradient(forward, pairs), gradient)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(evaluation: Evaluation, name: str, fails: bool) -> None:
    """Weights, flags, gradients, hooks and the global generator; also when the method raises half way."""
    classifier = evaluation.forward.classifier
    classifier.module.train()
    next(classifier.module.parameters()).requires_grad_(False)
    before, state = classifier.weights_hash, torch.get_rng_state()
    flags = [m.training for m in classifier.module.modules()], [p.requires_grad for p in classifier.module.parameters()]
    calls = []

    def method(forward: Forward, pairs: Pairs) -> Tensor:
        calls.append(forward)
        if fails:
            raise RuntimeError("half way")
        return gradient(forward, pairs)

    again = Evaluation(evaluation.forward, evaluation.pairs, evaluation.maps, method)
    if fails:
        with pytest.raises(RuntimeError, match="half way"):
            compute(name, again)
    else:
        assert torch.equal(compute(name, again), compute(name, evaluation))
    assert calls
    del classifier.__dict__["weights_hash"]
    assert classifier.weights_hash == before
    assert flags == (
        [m.training for m in classifier.module.modules()],
        [p.requires_grad for p in classifier.module.parameters()],
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in classifier.module.parameters())
    assert not any(m._forward_hooks for m in classifier.module.modules())


@pytest.mark.parametrize("name", ["mprt", "random_logit"])
@pytest.mark.parametrize("similarity", ["pearson", "ssim"])
def test_scale(evaluation: Evaluation, name: str, similarity: str) -> None:
    """The scale of the maps changes no similarity (test_invariances.py tests the default one)."""
    whole = compute(name, evaluation, similarity=similarity)
    assert whole.isfinite().all()
    forward, pairs = evaluation.forward, evaluation.pairs
    scaled = Evaluation(forward, pairs, evaluation.maps * 8, lambda f, p: gradient(f, p) * 8)
    np.testing.assert_allclose(compute(name, scaled, similarity=similarity).numpy(), whole.numpy(), rtol=1e-9)


def test_a_method_that_ignores_the_model_is_found_out(evaluation: Evaluation) -> None:
    forward, pairs = evaluation.forward, evaluation.pairs
    blind = Evaluation(forward, pairs, edges(forward, pairs), edges)
    for similarity in ("spearman", "pearson", "ssim"):
        np.testing.assert_allclose(compute("mprt", blind, similarity=similarity).numpy(), 1, atol=1e-12)
        np.testing.assert_allclose(compute("random_logit", blind, similarity=similarity).numpy(), 1, atol=1e-12)
    assert compute("efficient_mprt", blind).tolist() == [0, 0, 0]
    assert (compute("mprt", evaluation) < 0.9).all()


def degenerate(value: float) -> Callable[[Forward, Pairs], Tensor]:
    return lambda forward, pairs: forward.images.new_full((len(pairs), 6, 8), value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, -2.0, torch.nan])
def test_degenerate_maps(evaluation: Evaluation, name: str, value: float) -> None:
    """A constant map has no contrast, no correlation and no entropy: every similarity is undefined."""
    forward, pairs = evaluation.forward, evaluation.pairs
    flat = Evaluation(forward, pairs, degenerate(value)(forward, pairs), degenerate(value))
    for parameters in (
        ({},) if name == "efficient_mprt" else tuple({"similarity": s} for s in randomisation.SIMILARITIES)
    ):
        assert compute(name, flat, **parameters).isnan().all(), parameters


def test_cam_of_a_random_model(evaluation: Evaluation) -> None:
    """A method that needs the linear head finds that of the random model."""
    forward, pairs = evaluation.forward, evaluation.pairs
    explained = Evaluation(forward, pairs, cam(forward, pairs), cam)
    (maps,) = randomisation.randomised_maps(explained, 1)
    (random,) = randomisation.cascade(forward.classifier, 1, forward.seed)
    features = Forward(random, forward.images).features("last")
    expected = torch.einsum("pk,pkhw->phw", random.module.head.weight[pairs.label], features[pairs.image])
    np.testing.assert_allclose(maps.numpy(), expected.detach().numpy(), atol=1e-12)


def test_other_labels(evaluation: Evaluation) -> None:
    other = randomisation.other_labels(evaluation)
    assert (other != evaluation.pairs.label).all()
    assert ((other >= 0) & (other < 3)).all()
    drawn = {
        int(
            randomisation.other_labels(
                Evaluation(
                    Forward(evaluation.forward.classifier, evaluation.forward.images[:1], ids=[str(i)]),
                    Pairs([0], [1]),
                    evaluation.maps[:1],
                )
            )[0]
        )
        for i in range(20)
    }
    assert drawn == {0, 2}
    lone = Evaluation(
        Forward(any_classifier(labels=1), torch.zeros(1, 3, 4, 5)), Pairs([0], [0]), torch.rand(1, 4, 5), gradient
    )
    assert compute("random_logit", lone).isnan().all()


def test_bad_input(evaluation: Evaluation) -> None:
    with pytest.raises(UsageError, match="at least 1 is needed"):
        compute("mprt", evaluation, layers=0)
    with pytest.raises(UsageError, match="similarity"):
        metrics["mprt"].bind({"similarity": "cosine"})
    for name in NAMES:
        with pytest.raises(UsageError, match="needs the method"):
            compute(name, Evaluation(evaluation.forward, evaluation.pairs, evaluation.maps))
    bare = xaibench.Classifier(nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), layer="0")
    with pytest.raises(UsageError, match="no layer"):
        next(randomisation.cascade(bare, 1, 0))


def test_the_score_is_the_mean_over_depths(evaluation: Evaluation) -> None:
    classifier, images, pairs = evaluation.forward.classifier, evaluation.forward.images, evaluation.pairs
    entries = ["mprt", {"name": "mprt", "average": "cascade_last", "as": "last"}]
    table = xaibench.evaluate(classifier, images, pairs, evaluation.maps, entries, method=gradient)
    cascade = compute("mprt", Evaluation(Forward(classifier, images), pairs, evaluation.maps, gradient)).numpy()
    np.testing.assert_allclose(table["mprt"], cascade.mean(1))
    np.testing.assert_allclose(table["last"], cascade[:, -1])
    scores = xaibench.evaluate(classifier, images, pairs, evaluation.maps, entries, method=gradient, reduce="scores")
    np.testing.assert_allclose(scores["value"], [cascade.mean(), cascade[:, -1].mean()])


class UsageHead(nn.Module):
    """A parametrisation without an inverse, as Kernel Usage Regularization is."""

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel * kernel.softmax(0)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "no_inverse", "hooked_weight_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_parametrised_layers_become_random(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 20))
    if kind == "no_inverse":
        parametrize.register_parametrization(module[4], "weight", UsageHead())
    elif kind == "hooked_weight_norm":
        nn.utils.weight_norm(module[4])
    else:
        getattr(parametrizations, kind)(module[4])
    classifier = xaibench.Classifier(module.double().eval(), layer="1")
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    classifier.inspect(images)
    trained = module[4].weight.detach().clone()
    (random,) = randomisation.cascade(classifier, 1, 0)
    random.logits(images)  # a hook computes the weight when it runs
    found = random.module[4].weight.detach()
    correlation = torch.corrcoef(torch.stack([found.flatten(), trained.flatten()]))[0, 1]
    assert correlation.abs() < 0.3
    assert torch.equal(module[4].weight.detach(), trained)
    maps = xaibench.explain(classifier, images, Pairs([0, 1], [0, 3]), method="cam")
    table = xaibench.evaluate(classifier, images, Pairs([0, 1], [0, 3]), maps, ["mprt"], method="cam")
    assert (table["mprt"] < 1).all()
