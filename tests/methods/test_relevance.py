"""lrp against relevance handed down layer by layer through dense matrices, against captum, and its sum rules."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.golden import Golden
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.forward import Forward, Pairs
from xaibench.models.architectures import create_module
from xaibench.models.capabilities import offers

PAIRS = Pairs([1, 0, 1], [2, 0, 1])
EPS = 1e-6
RULES = ["epsilon", "z_plus", "gamma", "alpha_beta"]


class Residual(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.same = nn.Conv2d(4, 4, 1, bias=bias), nn.Identity()
        self.fc = nn.Linear(4, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.bn1(self.conv1(x))))
        y = self.same(self.conv3(self.act(self.bn2(self.conv2(x)))))
        y += x
        return self.fc(self.act(y).mean((2, 3)))


def network(bias: bool = True) -> Residual:
    torch.manual_seed(4)
    module = Residual(bias).double().eval()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.uniform_(m.weight, -1.5, 1.5)  # negative scales turn signs of merged weights
            if bias:
                nn.init.normal_(m.running_mean, std=0.2)
                nn.init.normal_(m.bias, std=0.2)
    return module


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dense(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An affine map of one sample as a matrix [out, in] and a bias [out]."""
    bias = function(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    size = int(np.prod(shape))
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    return (function(basis).flatten(1) - bias).T, bias


def share(rule: str, a: Tensor, matrix: Tensor, bias: Tensor, relevance: Tensor, gamma: float, alpha: float) -> Tensor:
    """R_j from R_k by the definition, with the products a_j w_jk written out."""

    def fractions(parts: Tensor, own: Tensor) -> Tensor:
        total = parts.sum(1) + own
        return (parts / (total + torch.where(total < 0, -EPS, EPS))[:, None]).T @ relevance

    products = matrix * a  # [out, in]
    if rule == "epsilon":
        return fractions(products, bias)
    if rule == "z_plus":
        return fractions(matrix.clamp(min=0) * a, bias.clamp(min=0))
    if rule == "gamma":
        up = (products.sum(1) + bias > 0)[:, None]
        chosen = torch.where(up, matrix.clamp(min=0), matrix.clamp(max=0))
        own = torch.where(up[:, 0], bias.clamp(min=0), bias.clamp(max=0))
        return fractions((matrix + gamma * chosen) * a, bias + gamma * own)
    plus = fractions(products.clamp(min=0), bias.clamp(min=0))
    return alpha * plus - (alpha - 1) * fractions(products.clamp(max=0), bias.clamp(max=0))


def by_hand(m: Residual, image: Tensor, label: int, rule: str, first: str, gamma: float, alpha: float) -> Tensor:
    with torch.no_grad():
        x = image[None]
        pre = m.bn1(m.conv1(x))
        a1 = pre.relu()
        a2, position = torch.nn.functional.max_pool2d(a1, 2, return_indices=True)
        a3 = m.bn2(m.conv2(a2)).relu()
        y = m.conv3(a3)
        total = y + a2
        pooled = total.relu().mean((2, 3))

        start = torch.zeros(3, dtype=torch.float64)
        start[label] = m.fc(pooled)[0, label]
        matrix, bias = dense(m.fc, (4,))
        relevance = share("epsilon", pooled.flatten(), matrix, bias, start, gamma, alpha).view(1, 4, 1, 1)
        kept = total.relu()
        relevance = relevance * kept / kept.sum((2, 3), keepdim=True)  # the mean, in proportion
        to_y, to_a2 = relevance * y / total, relevance * a2 / total  # the addition, in proportion
        matrix, bias = dense(m.conv3, tuple(a3.shape[1:]))
        to_a3 = share(rule, a3.flatten(), matrix, bias, to_y.flatten(), gamma, alpha)
        matrix, bias = dense(lambda t: m.bn2(m.conv2(t)), tuple(a2.shape[1:]))
        to_a2 = to_a2.flatten() + share(rule, a2.flatten(), matrix, bias, to_a3, gamma, alpha)
        to_a1 = torch.zeros_like(a1).flatten(2).scatter_add(2, position.flatten(2), to_a2.view_as(a2).flatten(2))
        matrix, bias = dense(lambda t: m.bn1(m.conv1(t)), tuple(x.shape[1:]))
        own = "epsilon" if first == "epsilon" else rule
        return share(own, x.flatten(), matrix, bias, to_a1.flatten(), gamma, alpha).view_as(image).sum(0)


@pytest.mark.parametrize("first", ["epsilon", "same"])
@pytest.mark.parametrize("rule", RULES)
def test_lrp_layer_by_layer(images: Tensor, rule: str, first: str) -> None:
    module = network()
    parameters = {"rule": rule, "first": first, "eps": EPS, "gamma": 0.4, "alpha": 1.7}
    found = xaibench.explain(xaibench.Classifier(module), images, PAIRS, method="lrp", **parameters)
    for row, (image, label) in enumerate(zip(PAIRS.image.tolist(), PAIRS.label.tolist(), strict=True)):
        expected = by_hand(module, images[image], label, rule, first, 0.4, 1.7)
        torch.testing.assert_close(found[row], expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("layer", ["input", "conv1", "bn1", "pool"])
@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
def test_relevance_is_conserved_without_biases(images: Tensor, rule: str, layer: str) -> None:
    """Relevance sums to the logit at every layer that all paths cross. The other rules lose some of it where no
    contribution has their sign.
    """
    classifier = xaibench.Classifier(network(bias=False))
    logit = classifier.logits(images)[PAIRS.image, PAIRS.label]
    found = xaibench.explain(classifier, images, PAIRS, method="lrp", rule=rule, eps=1e-12, layer=layer)
    torch.testing.assert_close(found.sum((1, 2)), logit, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_epsilon_is_input_times_gradient_on_timm_networks(name: str) -> None:
    torch.manual_seed(0)
    module = create_module(name, num_classes=3).double().train()
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        module(torch.randn(8, 3, 32, 32, dtype=torch.float64))  # running statistics that are not 0 and 1
    classifier = xaibench.Classifier(module.eval())
    expected = xaibench.explain(classifier, images, PAIRS, method="input_x_gradient")
    found = xaibench.explain(classifier, images, PAIRS, method="lrp", rule="epsilon", eps=1e-14)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    for rule in RULES[1:]:
        assert xaibench.explain(classifier, images, PAIRS, method="lrp", rule=rule).isfinite().all()


def captum_lrp(cnn: Golden, rule: str) -> np.ndarray:
    """captum on a copy whose normalisations are folded and whose pooling is a module, in float64."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import LRP
        from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule

    layers = list(cnn.classifier.module.features)
    folded = [
        part
        for conv, norm, _ in zip(layers[::3], layers[1::3], layers[2::3], strict=True)
        for part in (fuse_conv_bn_eval(conv, norm), nn.ReLU())
    ]
    net = nn.Sequential(*folded, nn.AdaptiveAvgPool2d(1), nn.Flatten(), copy.deepcopy(cnn.classifier.module.fc))
    maps = []
    for label in range(cnn.arrays["logits"].shape[1]):
        run = copy.deepcopy(net)
        for part in run:
            if isinstance(part, nn.Conv2d):
                part.rule = {"gamma": GammaRule, "z_plus": Alpha1_Beta0_Rule, "epsilon": EpsilonRule}[rule]()
            elif not isinstance(part, nn.ReLU):
                part.rule = EpsilonRule()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps.append(LRP(run).attribute(cnn.images[:2].clone(), target=label).sum(1).detach())
    return torch.stack(maps, 1).numpy()


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
def test_captum_where_its_network_is_all_modules(cnn: Golden, rule: str) -> None:
    if cnn.name != "open_plain":
        return  # captum has no rule for the identities and additions of the other
    reference = captum_lrp(cnn, rule)
    pairs = Pairs([0] * 6 + [1] * 6, [*range(6), *range(6)])
    found = cnn.maps("lrp", pairs, rule=rule, first="same", bias="kept", eps=1e-9).reshape(reference.shape)
    assert np.abs(found - reference).max() <= 1e-7 * np.abs(reference).max()


def test_gates_are_not_relu_networks() -> None:
    for name, relu in (("regnety_002", False), ("resnest14d", False), ("mobilenetv2_050", False), ("resnet18", True)):
        classifier = xaibench.Classifier(create_module(name, num_classes=2).eval())
        classifier.inspect(torch.zeros(1, 3, 32, 32))
        assert ("relu" in offers(classifier)) == relu


def test_what_is_refused(images: Tensor) -> None:
    class Twice(nn.Module):
        """The output of the convolution is normalised, and used as it is as well."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((self.bn(x) + x).relu().mean((2, 3)))

    module = Twice().double().eval()
    nn.init.constant_(module.bn.running_var, 0.3)
    with pytest.raises(IncompatibleError, match="cannot be merged"):
        xaibench.explain(xaibench.Classifier(module), images, PAIRS, method="lrp")
    classifier = xaibench.Classifier(network())
    for parameters in ({"eps": -1.0}, {"gamma": -0.1}, {"alpha": 0.5}):
        with pytest.raises(UsageError, match=r"at least [01] is needed"):
            xaibench.explain(classifier, images, PAIRS, method="lrp", **parameters)
    smooth = nn.Sequential(nn.Conv2d(2, 3, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    with pytest.raises(IncompatibleError, match="other than ReLU"):
        xaibench.explain(xaibench.Classifier(smooth), images, PAIRS, method="lrp")


def test_the_normalisation_is_merged_for_the_pass_only(images: Tensor) -> None:
    module = network()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    classifier = xaibench.Classifier(module)
    logits = classifier.logits(images)
    forward = Forward(classifier, images)
    with torch.no_grad():
        xaibench.core.registry.methods["lrp"].function(forward, PAIRS)
    assert torch.equal(classifier.logits(images), logits)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
