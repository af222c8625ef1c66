"""`xaibench.benchmark`: the evaluation of a suite for models, data and functions of a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import xaibench
from xaibench.core.errors import IncompatibleError, UsageError
from xaibench.data.in_memory import InMemory
from xaibench.forward import Forward, Pairs

METRICS = ["average_drop", "f1_plus", "deletion", "pointing_game"]


def brightness(forward: Forward, pairs: Pairs) -> Tensor:
    """A method of a script."""
    return forward.images[pairs.image].abs().mean(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def images() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "data": torch.randn(70, 3, 12, 12, generator=generator),
        "labels": torch.randint(0, 2, (70, 4), generator=generator),
        "masks": torch.randint(0, 5, (70, 12, 12), generator=generator),
    }


def numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """The columns that must be equal between two ways to the same scores."""
    return scores[["method", "metric", "direction", "n", "n_undefined", "value", "ci_low", "ci_high"]]


def test_it_gives_the_numbers_of_a_suite(tmp_path: Path) -> None:
    suite = {
        "name": "twin",
        "seed": 3,
        "dataset": {"name": "shapes", "split": "val"},
        "models": [{"name": "shapes-resnet"}],
        "methods": ["grad_cam", {"name": "rise", "samples": 4}],
        "metrics": METRICS,
    }
    wanted = xaibench.run(suite, out=tmp_path / "suite", limit=8)
    found = xaibench.benchmark(
        xaibench.load_classifier("shapes-resnet"),
        xaibench.load_dataset("shapes", split="val"),
        ["grad_cam", {"name": "rise", "samples": 4}],
        METRICS,
        seed=3,
        limit=8,
    )
    pd.testing.assert_frame_equal(numbers(found.scores), numbers(wanted.scores))
    columns = ["method", "metric", "sample_id", "label", "value", "status"]
    pd.testing.assert_frame_equal(found.records()[columns], wanted.records()[columns])
    assert sorted(p.name for p in found.directory.iterdir()) == sorted(
        {p.name for p in wanted.directory.iterdir()} - {"suite.yaml"}
    )
    assert found.scores["partial"].all()


def test_modules_images_and_functions(tmp_path: Path) -> None:
    run = xaibench.benchmark({"mine": network()}, methods=["cam", brightness], metrics=METRICS, **images())
    assert run.scores["model"].unique().tolist() == ["mine"]
    assert run.scores["method"].unique().tolist() == ["cam", "brightness"]
    assert run.scores["value"].notna().all()
    assert run.exit_code == 0
    pair = run.records().query("method == 'brightness' and metric == 'average_drop'").iloc[0]
    classifier, given = xaibench.Classifier(network()), images()
    index = int(pair["sample_id"])
    image, pairs = given["data"][index : index + 1], Pairs(image=[0], label=[int(pair["label"])])
    maps = brightness(Forward(classifier, image), pairs)
    table = xaibench.evaluate(classifier, image, pairs, maps, "average_drop")
    assert pair["value"] == pytest.approx(table["average_drop"][0], abs=1e-6)


def test_models_and_methods_under_labels() -> None:
    models = {"a": xaibench.Classifier(network()), "b": network()}
    methods = {"bright": brightness, "few": {"name": "rise", "samples": 2}, "cam": "cam"}
    run = xaibench.benchmark(models, methods=methods, metrics="average_drop", limit=4, **images())
    assert run.scores[["model", "method"]].agg("/".join, axis=1).tolist() == [
        f"{model}/{method}" for model in models for method in methods
    ]
    assert run.leaderboard.wide()["model"].tolist() == ["a", "a", "a", "b", "b", "b"]


def test_a_directory_is_resumed_and_a_changed_function_is_not_found_again(tmp_path: Path) -> None:
    def run(function: Any, module: nn.Module) -> Any:
        methods = {"mine": function}
        return xaibench.benchmark(
            {"net": module}, methods=methods, metrics="average_drop", out=tmp_path, limit=4, **images()
        )

    def other(forward: Forward, pairs: Pairs) -> Tensor:
        return forward.images[pairs.image].mean(1)

    first = run(brightness, network())
    assert first.outcome.computed == 1
    assert run(brightness, network()).outcome.computed == 0
    assert run(other, network()).outcome.computed == 1
    changed = network()
    with torch.no_grad():
        changed[0].weight += 0.1
    assert run(brightness, changed).outcome.computed == 1
    assert run(brightness, nn.Sequential(network(), nn.Identity())).outcome.computed == 1  # the same weights, renamed


def test_a_temporary_directory_goes_with_its_run() -> None:
    run = xaibench.benchmark(network(), methods="cam", metrics="average_drop", limit=2, **images())
    directory = run.directory
    assert (directory / "leaderboard.csv").is_file()
    del run
    assert not directory.exists()


def test_an_error_in_a_function_is_a_failed_row_and_names_its_line() -> None:
    def broken(forward: Forward, pairs: Pairs) -> Tensor:
        raise ZeroDivisionError("no maps today")

    run = xaibench.benchmark(network(), methods=["cam", broken], metrics="average_drop", limit=2, **images())
    assert run.exit_code == 3
    [message] = run.outcome.failed
    assert "Sequential / broken: ZeroDivisionError: no maps today" in message
    assert "test_python_benchmark.py" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": "grad_camm"}, "unknown method 'grad_camm'; did you mean 'grad_cam'"),
        ({"methods": []}, "methods: at least one is needed"),
        ({"methods": ["cam", "cam"]}, "two methods are called 'cam'"),
        ({"methods": [3]}, "a name, a mapping with `name` or a function is needed"),
        ({"methods": {"name": "rise", "sample": 3}}, "rise has no parameter 'sample'"),
        ({"metrics": "average_dropp"}, "did you mean 'average_drop'"),
        ({"models": {}}, "models: at least one is needed"),
        ({"models": {"a": "shapes-resnet"}}, r"found 'shapes-resnet'; write xaibench.load_classifier"),
        ({"labels": torch.ones(70, 5)}, "model Sequential has 4 labels, but benchmark has 5"),
        ({"masks": None}, "metric pointing_game needs masks, which benchmark does not have; give masks="),
        ({"explain": "target"}, "explain: target needs one label per image"),
        ({"limit": 0}, "limit: 0; at least one sample is needed"),
        ({"data": InMemory(torch.zeros(1, 3, 8, 8))}, "labels, masks: a data set has its own"),
        ({"models": {"a": network(), "b": network().double()}}, "models of one precision are needed"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    given = {"models": network(), "methods": "cam", "metrics": METRICS, **images(), **change}
    with pytest.raises(UsageError, match=message):
        xaibench.benchmark(**given)


def test_class_names_are_compared() -> None:
    classifier = xaibench.Classifier(network(), class_names=("a", "b", "c", "d"))
    given = {"methods": "cam", "metrics": "average_drop", "limit": 2, **images()}
    run = xaibench.benchmark(classifier, **given)
    assert '"class_names": [\n    "a"' in (run.directory / "suite.resolved.json").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="same classes in another order: label 0 is 'a', not 'b'"):
        xaibench.benchmark(classifier, class_names=("b", "a", "c", "d"), **given)


def test_a_method_that_goes_with_no_model() -> None:
    with pytest.raises(IncompatibleError, match="no method goes with Sequential"):
        xaibench.benchmark(network(), methods="attention_rollout", metrics="average_drop", **images())
