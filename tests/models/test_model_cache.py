"""Which entries share a module, which do not, and that sharing changes no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import xaibench
from tests.support.console import call
from xaibench.models import classifier as classifiers
from xaibench.models import factory
from xaibench.models.architectures import create_module
from xaibench.models.classifier import Classifier
from xaibench.models.factory import load_classifier
from xaibench.models.model_cache import Identity, ModelCache
from xaibench.models.structure import Structure, find_structure
from xaibench.runner.settings import Settings

pytestmark = pytest.mark.usefixtures("empty_folder")

SMALL: dict[str, Any] = {"num_classes": 4, "input": {"size": 64}}


def load(cache: ModelCache, **options: Any) -> Classifier:
    return load_classifier("test_resnet", **(SMALL | options), cache=cache)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(create_module("test_resnet", num_classes=4).state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_what_does_not_change_the_module_is_shared() -> None:
    cache = ModelCache()
    first = load(cache)
    others = [
        load(cache, activation="softmax"),
        load(cache, threshold=0.2),
        load(cache, layer="layer2"),
        load(cache, input={"size": 96, "mean": [0.5, 0.5, 0.5]}),
        load(cache, in_chans=3),
    ]
    assert len(cache) == 1
    for other in others:
        assert other is not first
        assert other.module is first.module
        assert other.weights_hash == first.weights_hash
    assert [c.structure.target_layer for c in (first, *others[:3])] == ["layer4", "layer4", "layer4", "layer2"]
    assert (others[0].activation, others[1].threshold) == ("softmax", 0.2)
    assert others[3].preprocess is not None
    assert others[3].preprocess.size == (96, 96)


def test_the_structure_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def counted(module: nn.Module, layer: str | None, image: torch.Tensor) -> Structure:
        looks.append(layer)
        return find_structure(module, layer, image)

    monkeypatch.setattr(classifiers, "find_structure", counted)
    cache = ModelCache()
    variants: list[dict[str, Any]] = [{}, {"threshold": 0.2}, {"activation": "softmax"}]
    structures = [load(cache, **variant).structure for variant in variants]
    assert looks == [None]
    assert structures[0] is structures[1] is structures[2]
    assert load(cache, layer="layer2").structure.target_layer == "layer2"
    assert load(cache, input={"size": 96}).structure == structures[0]  # another size is another look
    assert looks == [None, "layer2", None]


def test_what_changes_it_is_not(weights: Path) -> None:
    other = weights.with_name("other.pth")
    torch.save(create_module("test_resnet", num_classes=4).state_dict(), other)
    cache = ModelCache(size=20)
    variants: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"num_classes": 5}, {"options": {"output_stride": 8}}, {"checkpoint": weights},
        {"checkpoint": other}, {"in_chans": 4, "extra_channels": "mean"},
        {"checkpoint": weights, "in_chans": 4, "extra_channels": "mean"},
        {"checkpoint": weights, "in_chans": 4, "extra_channels": "zero"},
    ]  # fmt: skip
    modules = [load(cache, **variant).module for variant in variants]
    assert len({id(module) for module in modules}) == len(variants) == len(cache)
    again = [load(cache, **variant).module for variant in variants]
    assert all(a is b for a, b in zip(modules, again, strict=True))
    moved = load(cache, device="meta").module
    assert moved is not modules[0]
    assert next(moved.parameters()).is_meta


def test_weights_count_and_not_their_file(weights: Path) -> None:
    cache = ModelCache()
    first = load(cache, checkpoint=weights)
    copy = weights.with_name("copy.pth")
    torch.save({"state_dict": torch.load(weights, weights_only=True)}, copy)
    assert load(cache, checkpoint=copy).module is first.module
    torch.save(create_module("test_resnet", num_classes=4).state_dict(), weights)  # trained again
    assert load(cache, checkpoint=weights).module is not first.module


def test_the_last_two_are_kept() -> None:
    cache = ModelCache()
    one, two = load(cache, seed=1).module, load(cache, seed=2).module
    assert load(cache, seed=1).module is one
    load(cache, seed=3)  # 2 was used longest ago
    assert len(cache) == 2
    assert load(cache, seed=1).module is one
    assert load(cache, seed=2).module is not two
    cache.clear()
    assert len(cache) == 0
    assert load(cache, seed=1).module is not one


def test_none_is_kept_where_none_may_be() -> None:
    cache = ModelCache(size=0)
    assert load(cache).module is not load(cache).module
    assert len(cache) == 0


def test_room_is_made_before_the_next_is_built() -> None:
    cache = ModelCache(size=2)
    held: list[int] = []

    def build() -> nn.Module:
        held.append(len(cache))
        return nn.Linear(2, 2)

    for number in range(4):
        cache.get(Identity(str(number), "", "", torch.device("cpu")), build)
    assert held == [0, 1, 1, 1]


@pytest.mark.parametrize("how", ["in place", "type", "new weights"])
def test_a_module_that_somebody_changed_is_built_again(how: str) -> None:
    cache = ModelCache()
    first = load(cache)
    before = first.weights_hash
    assert load(cache).module is first.module
    if how == "in place":
        with torch.no_grad():
            next(first.module.parameters()).mul_(2)
    elif how == "type":
        first.module.double()
    else:
        first.module.load_state_dict({k: v + 1 for k, v in first.module.state_dict().items()})
    fresh = load(cache)
    assert fresh.module is not first.module
    assert fresh.weights_hash == before


def test_explaining_leaves_a_shared_module_as_it_was() -> None:
    cache = ModelCache()
    classifier = load(cache)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for method in ("grad_cam", "guided_backprop", "lrp", "saliency"):
        xaibench.explain(classifier, x, xaibench.Pairs([0, 1], [1, 2]), method=method)
    assert load(cache).module is classifier.module


def test_without_a_cache_a_module_is_the_callers_own() -> None:
    assert load_classifier("test_resnet", **SMALL).module is not load_classifier("test_resnet", **SMALL).module


SUITE = """\
name: {name}
dataset: {{name: shapes, samples: 3}}
models:
  - {{name: test_resnet, as: plain, input: {{size: 64, resize: squash}}}}
  - {{name: test_resnet, as: eager, input: {{size: 64, resize: squash}}, layer: layer3, activation: softmax}}
explain: present
methods: [grad_cam, saliency]
metrics: [average_drop, {{name: mprt, layers: 2}}, sparseness]
"""


def scores(tmp_path: Path, name: str, out: str, cache: ModelCache) -> tuple[pd.DataFrame, list[nn.Module]]:
    (tmp_path / "suite.yaml").write_text(SUITE.format(name=name))
    run = xaibench.run(tmp_path / "suite.yaml", out=tmp_path / out, cache=cache)
    assert not run.outcome.failed
    return run.scores, [model.classifier.module for model in run.outcome.models]


def test_suites_share_and_nothing_changes(tmp_path: Path) -> None:
    cache = ModelCache()
    first, modules = scores(tmp_path, "one", "first", cache)
    second, more = scores(tmp_path, "two", "second", cache)
    assert len({id(module) for module in (*modules, *more)}) == 1
    apart, own = scores(tmp_path, "one", "apart", ModelCache(size=0))
    assert len({id(module) for module in own}) == 2
    columns = [column for column in first.columns if column != "suite" and not column.startswith("seconds")]
    for other in (second, apart):
        pd.testing.assert_frame_equal(first[columns], other[columns])


@pytest.mark.parametrize("verb", ["run", "validate"])
def test_the_suites_of_one_command_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """... and the next command, or the next run from Python, builds its own."""
    built = []

    def counted(name: str, **options: Any) -> nn.Module:
        built.append(name)
        return create_module(name, **options)

    monkeypatch.setattr(factory, "create_module", counted)
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(SUITE.format(name=name))
    assert call(monkeypatch, verb, "one.yaml", "two.yaml") == 0
    assert built == ["test_resnet"]
    assert call(monkeypatch, verb, "one.yaml") == 0
    assert built == ["test_resnet"] * 2
    assert Settings().cache is not Settings().cache
