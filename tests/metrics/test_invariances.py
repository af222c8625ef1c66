"""Every registered metric: changes of the input that change no value, and inputs that raise no error.

A new metric is tested by existing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.networks import IDS, PAIRS, images, mask, network
from tests.support.parameters import taken
from xaibench.core import registry
from xaibench.core.aggregation import find_aggregation
from xaibench.core.registry import BoundMetric
from xaibench.data.dataset import VOID
from xaibench.data.ground_truth import GroundTruth
from xaibench.data.preprocess import Preprocess
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import statistics
from xaibench.forward import Forward, Pairs
from xaibench.methods.gradient import input_x_gradient

CLOSE = 1e-5
CHEAP: dict[str, Any] = {"steps": 4, "samples": 4, "layers": 2, "grid": 3, "k": 20}
EVERY = torch.arange(len(IDS))
Change = Callable[[Tensor], Tensor]

# measurements of a machine have tests of their own: tests/metrics/test_cost.py
everyone = pytest.mark.parametrize("name", [name for name in registry.metrics if registry.metrics[name].repeatable])


def parameters(name: str) -> dict[str, Any]:
    """The defaults, but few samples and steps."""
    entry = registry.metrics[name]
    return entry.bind(taken(entry, CHEAP))


def explain(forward: Forward, pairs: Pairs) -> Tensor:
    return input_x_gradient(forward, pairs)


def coarse(forward: Forward, pairs: Pairs) -> Tensor:
    """Maps of 6 x 8 with seven levels: they need resizing, and have heavy ties."""
    maps = explain(forward, pairs).unflatten(1, (6, 4)).unflatten(3, (8, 4)).mean((2, 4))
    return (3 * maps / maps.abs().amax((1, 2), keepdim=True)).round()


def labels() -> Tensor:
    return torch.zeros(len(IDS), 6, dtype=torch.bool).index_put((PAIRS.image, PAIRS.label), torch.tensor(True))


def evaluate(
    name: str,
    pairs: Pairs = PAIRS,
    rows: Tensor = EVERY,
    *,
    method: Callable[[Forward, Pairs], Tensor] = explain,
    change: Change = lambda maps: maps,
    masks: Tensor | None = None,
    chunk: int = 64,
) -> Tensor:
    """Values [n, S] in the order of the pairs, or of the images of a metric per image.

    Args:
        pairs: their images are positions in `rows`, the images of the batch
        change: of the maps that are given to the metric, not of those it makes
    """
    classifier = network()
    classifier.chunk = chunk
    given = mask() if masks is None else masks
    truth = GroundTruth(mask=given[rows], present=labels()[rows])
    forward = Forward(classifier, images()[rows], ground_truth=truth, ids=[IDS[int(row)] for row in rows], seed=1)
    return values(name, Evaluation(forward, pairs, change(method(forward, pairs).detach()), method))


def values(name: str, evaluation: Evaluation) -> Tensor:
    entry = registry.metrics[name]
    with torch.no_grad():
        found = statistics(evaluation, BoundMetric(name, entry, parameters(name), "detected"))
    return found.view(len(found), -1) if len(found) else found


@cache
def usual(name: str, method: Callable[[Forward, Pairs], Tensor] = explain) -> Tensor:
    return evaluate(name, method=method)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE, equal_nan=True)


def rows_of(name: str, chosen: Tensor) -> Tensor:
    """Which values belong to chosen pairs: theirs, or those of their images."""
    if registry.metrics[name].per == "pair":
        return chosen
    return torch.isin(EVERY, PAIRS.image[chosen])


def undefined(name: str, found: Tensor) -> Tensor:
    """bool [n]: no statistic of the row gives a value, as the records have it."""
    rule = find_aggregation(registry.metrics[name].averages[0])
    return torch.from_numpy(np.isnan(rule.value(found.numpy())))


def in_range(name: str, found: Tensor) -> bool:
    """Undefined or within the range of the card; statistics of counts have no range."""
    entry = registry.metrics[name]
    if entry.averages[0] in ("ratio", "mean_iou", "seed_miou"):
        return bool((found.isnan() | (found >= 0)).all())
    low, high = entry.range
    return bool((found.isnan() | ((found >= low - CLOSE) & (found <= high + CLOSE))).all())


@everyone
def test_the_network_gives_something_to_measure(name: str) -> None:
    """Most values are defined and not all are equal, else nothing below says anything."""
    for method in (explain, coarse):
        found = usual(name, method)
        assert found.isfinite().all(1).double().mean() >= 0.5
        assert in_range(name, found)
    defined = usual(name)[usual(name).isfinite().all(1)]
    assert (defined[1:] != defined[:1]).any()


@everyone
@pytest.mark.parametrize("method", [explain, coarse])
def test_batch_size_does_not_matter(name: str, method: Callable[[Forward, Pairs], Tensor]) -> None:
    """Each image alone; heavy ties (coarse) go by the same rule."""
    together = usual(name, method)
    for row in range(len(IDS)):
        chosen = PAIRS.image == row
        alone = Pairs(torch.zeros_like(PAIRS.label[chosen]), PAIRS.label[chosen])
        own = together[row : row + 1] if registry.metrics[name].per == "image" else together[chosen]
        found = evaluate(name, alone, torch.tensor([row]), method=method)
        assert_close(found.view(len(own), -1) if len(own) else own, own)


@everyone
def test_a_pair_does_not_need_the_others(name: str) -> None:
    """One label an image: the others of its image are not explained. Seeds are made of all labels, so only their count."""
    first = torch.cat([torch.tensor([True]), PAIRS.image[1:] != PAIRS.image[:-1]])
    found = evaluate(name, Pairs(PAIRS.image[first], PAIRS.label[first]))
    if registry.metrics[name].per == "pair":
        assert_close(found, usual(name)[first])
    else:
        single = torch.bincount(PAIRS.image, minlength=len(IDS)) <= 1
        assert_close(found[single], usual(name)[single])


@everyone
def test_order_does_not_matter(name: str) -> None:
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    shuffle = torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(0))
    pairs = Pairs(torch.argsort(order)[PAIRS.image[shuffle]], PAIRS.label[shuffle])
    expected = usual(name)[order if registry.metrics[name].per == "image" else shuffle]
    assert_close(evaluate(name, pairs, order), expected)


@everyone
@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_do_not_matter(name: str, chunk: int) -> None:
    assert_close(evaluate(name, chunk=chunk), usual(name))


@everyone
def test_scale(name: str) -> None:
    """A metric whose card claims it does not depend on the scale of the maps; any other metric does."""
    changed = False
    for factor in (2.0**-20, 64.0):

        def scaled(forward: Forward, pairs: Pairs, factor: float = factor) -> Tensor:
            return explain(forward, pairs) * factor

        found = evaluate(name, method=scaled)
        if "scale" in registry.metrics[name].invariant:
            assert_close(found, usual(name))
        changed |= not torch.allclose(found, usual(name), rtol=CLOSE, atol=CLOSE, equal_nan=True)
    assert changed == ("scale" not in registry.metrics[name].invariant)


@everyone
@pytest.mark.parametrize(("channels", "size"), [(1, (17, 23)), (4, (24, 20)), (3, (9, 30))])
def test_channels_and_sizes(name: str, channels: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(channels)
    batch = torch.randn((2, channels, *size), generator=generator, dtype=torch.float64)
    truth = torch.randint(0, 4, (2, *size), generator=generator).to(torch.uint8)
    pairs = Pairs([0, 0, 1], [0, 2, 1])
    classifier = network(channels)
    classifier.preprocess = Preprocess(size=size, mean=(0.5,) * channels, std=(0.25,) * channels)
    known = GroundTruth(mask=truth, present=torch.ones(2, 6, dtype=torch.bool))
    forward = Forward(classifier, batch, ground_truth=known, ids=["a", "b"], seed=1)
    evaluation = Evaluation(forward, pairs, explain(forward, pairs).detach(), explain)
    forward.others = lambda pairs, labels="detected": torch.ones(3, 6, dtype=torch.bool)  # type: ignore[method-assign]
    found = values(name, evaluation)
    assert in_range(name, found)
    assert found.isfinite().all(1).any()


@everyone
def test_without_pairs(name: str) -> None:
    found = evaluate(name, Pairs([], []))
    assert len(found) == (len(IDS) if registry.metrics[name].per == "image" else 0)


@everyone
def test_empty_masks(name: str) -> None:
    """Without an object a metric of masks is undefined, but seeds count; other metrics do not read the mask."""
    found = evaluate(name, masks=torch.zeros_like(mask()))
    if "masks" not in registry.metrics[name].needs:
        assert_close(found, usual(name))
    else:
        assert undefined(name, found).all() == (registry.metrics[name].per == "pair")


@everyone
def test_void_masks(name: str) -> None:
    found = evaluate(name, masks=torch.full_like(mask(), VOID))
    if "masks" in registry.metrics[name].needs:
        assert undefined(name, found).all()
    else:
        assert_close(found, usual(name))


def one_pixel(value: float) -> Change:
    def change(maps: Tensor) -> Tensor:
        maps = maps.clone()
        maps[..., 3, 4] = value
        return maps

    return change


DIFFICULT: dict[str, Change] = {
    "constant": lambda maps: torch.full_like(maps, 0.7),
    "zero": torch.zeros_like,
    "negative": lambda maps: -maps.abs() - 0.1,
    "nan": one_pixel(torch.nan),
    "infinite": one_pixel(torch.inf),
    "minus infinite": one_pixel(-torch.inf),
}
NOT_FINITE = ("nan", "infinite", "minus infinite")


@everyone
@pytest.mark.parametrize("kind", DIFFICULT)
def test_difficult_maps(name: str, kind: str) -> None:
    """Two pairs: defined within the range, or NaN; always NaN for a map that is not finite. No other pair changes."""
    chosen = torch.zeros(len(PAIRS), dtype=torch.bool)
    chosen[[1, 6]] = True

    def change(maps: Tensor) -> Tensor:
        return torch.where(chosen[:, None, None], DIFFICULT[kind](maps), maps)

    found, affected = evaluate(name, change=change), rows_of(name, chosen)
    assert_close(found[~affected], usual(name)[~affected])
    assert in_range(name, found[affected])
    if kind in NOT_FINITE:
        assert undefined(name, found[affected]).all()


@everyone
def test_nothing_is_left_behind(name: str) -> None:
    """The model, its flags, gradients and hooks, and the global generator are as they were."""
    module = network().module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flags = [m.training for m in module.modules()], [p.requires_grad for p in module.parameters()]
    state = torch.random.get_rng_state()
    evaluate(name)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert flags == ([m.training for m in module.modules()], [p.requires_grad for p in module.parameters()])
    assert all(p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


@everyone
def test_the_card_is_complete(name: str) -> None:
    entry = registry.metrics[name]
    assert entry.summary
    assert entry.forwards is not None
    assert entry.backwards is not None
    assert entry.rankings_change_with
    assert entry.criticism
    assert entry.group not in registry.metrics, "a suite could not name the metric alone"
    assert entry.range[0] < entry.range[1]
    assert set(entry.parameters) <= set(entry.annotations)
