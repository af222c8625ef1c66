"""The multi-label metrics against the authors' executed code: per detection, per label, macro."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import xaibench
from tests.support.golden import GOLDEN_SET, Golden, load_facts
from xaibench.core.value_range import min_max
from xaibench.evaluation import Evaluation
from xaibench.evaluation.perturbation import Outputs
from xaibench.forward import Pairs
from xaibench.results.scores import score
from xaibench.suite import parse_metrics

COLUMNS = {
    "increase_in_confidence": "IC",
    "average_drop": "AD",
    "average_retention": "AR",
    "average_drop_of_others": "ADO",
    "average_retention_of_others": "ARO",
    "f1_plus": "F1p",
    "f1_minus": "F1n",
}
PER_DETECTION = list(COLUMNS)[:5]  # the order of metric/per_detection
METHODS = {"cam": "cam", "gradcampp": "grad_cam_pp", "minmaxcam": "minmax_cam", "d_minmaxcam": "d_minmax_cam"}
PERCENT = 100
TOLERANCE = 2e-4  # percentage points


@pytest.mark.parametrize("key", METHODS)
def test_official_numbers(cnn: Golden, key: str) -> None:
    """The whole way: images, our maps, our metrics."""
    pairs = xaibench.Pairs.where(torch.tensor(cnn.arrays["detected"]))
    maps = xaibench.explain(cnn.classifier, cnn.images, pairs, method=METHODS[key])
    table = xaibench.evaluate(cnn.classifier, cnn.images, pairs, maps, ["multi_label"])
    per_detection = cnn.arrays[f"metric/per_detection/{key}"]
    np.testing.assert_allclose(table[PER_DETECTION].to_numpy(), per_detection, atol=5e-6)  # the reference is float32
    scores = xaibench.evaluate(cnn.classifier, cnn.images, pairs, maps, ["multi_label"], reduce="scores")
    for metric, column in COLUMNS.items():
        macro = cnn.arrays[f"metric/out/{key}/macro/{column}"]
        value = scores.set_index("metric").loc[metric, "value"]
        assert PERCENT * value == pytest.approx(float(macro), abs=TOLERANCE), metric


@pytest.mark.parametrize("key", METHODS)
def test_detection_weighted_numbers(cnn: Golden, key: str) -> None:
    """`average: mean` is the detection-weighted mean of the notebook."""
    pairs = xaibench.Pairs.where(torch.tensor(cnn.arrays["detected"]))
    maps = xaibench.explain(cnn.classifier, cnn.images, pairs, method=METHODS[key])
    metrics = [{"name": name, "average": "mean"} for name in PER_DETECTION]
    scores = xaibench.evaluate(cnn.classifier, cnn.images, pairs, maps, metrics, reduce="scores").set_index("metric")
    for name in PER_DETECTION:
        weighted = cnn.arrays[f"metric/out/{key}/weighted/{COLUMNS[name]}"]
        assert PERCENT * scores.loc[name, "value"] == pytest.approx(float(weighted), abs=TOLERANCE)


def own(name: str, evaluation: Evaluation) -> torch.Tensor:
    value: torch.Tensor = xaibench.core.registry.metrics[name].function(evaluation)
    return value


KEPT: dict[str, Callable[[Evaluation], torch.Tensor]] = {
    "average_drop/ap": lambda e: own("average_drop", e),
    "average_gain/ap": lambda e: own("average_gain", e),
    "average_increase/ap": lambda e: own("increase_in_confidence", e),
    "increase_in_confidence/gradcam/ap": lambda e: own("increase_in_confidence", e),
    # pytorch-grad-cam does not divide by the confidence; no metric of ours
    "drop_in_confidence/gradcam/ap": lambda e: own("average_drop", e) * e.confidence,
}


@pytest.mark.parametrize("key", KEPT)
def test_what_is_kept_is_the_peers(key: str) -> None:
    """The map `ap` is a mask already, so the kept image is the peers'. A softmax model."""
    evaluation = GOLDEN_SET.evaluation("ap")
    torch.testing.assert_close(evaluation.mask, evaluation.maps)
    np.testing.assert_allclose(KEPT[key](evaluation).numpy(), GOLDEN_SET.result(key), atol=1e-5)


def test_every_result_of_what_is_kept_is_compared() -> None:
    prefixes = ("average_", "increase_in_confidence", "drop_in_confidence")
    assert {key[2:] for key in GOLDEN_SET.arrays if key.startswith(tuple(f"r/{p}" for p in prefixes))} == set(KEPT)


def test_no_gain_is_left_for_a_certain_model() -> None:
    evaluation = GivenProbabilities([[1.0, 0.75]], [[0.9, 1.0], [0.9, 0.875]], [[0.0, 0.0]] * 2)
    assert own("average_gain", evaluation)[0].isnan()
    assert own("average_gain", evaluation)[1] == 0.5


def test_masks_are_the_official_maps(cnn: Golden) -> None:
    pairs = xaibench.Pairs.where(torch.ones(cnn.arrays["logits"].shape, dtype=torch.bool))
    for key, method in METHODS.items():
        maps = xaibench.explain(cnn.classifier, cnn.images, pairs, method=method)
        evaluation = Evaluation(xaibench.Forward(cnn.classifier, cnn.images), pairs, maps)
        native = min_max(evaluation.maps.relu(), (1, 2)).unflatten(0, cnn.arrays["logits"].shape)
        np.testing.assert_allclose(native.numpy(), cnn.arrays[f"metric/maps/{key}"], atol=1e-5)


class GivenProbabilities(Evaluation):
    """An evaluation whose probabilities are given: for cases that no network would produce."""

    def __init__(self, p: Any, o: Any, co: Any) -> None:
        p = torch.tensor(p, dtype=torch.float64)
        self.given = {"keep": torch.tensor(o, dtype=torch.float64), "drop": torch.tensor(co, dtype=torch.float64)}
        module = torch.nn.Sequential(
            torch.nn.Conv2d(1, p.shape[1], 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )
        forward = xaibench.Forward(xaibench.Classifier(module, layer="0"), torch.zeros(len(p), 1, 2, 2))
        forward.__dict__["probabilities"] = p
        pairs = forward.detected_pairs
        super().__init__(forward, pairs, torch.zeros(len(pairs), 2, 2))

    def probe(self, part: str, *_: Any) -> Outputs:  # type: ignore[override]
        logits = self.given[part].logit()
        own = self.forward.classifier, logits, self.pairs.label, self.others()
        found = Outputs(**dict(zip(("classifier", "logits", "label", "others"), own, strict=True)))
        found.__dict__["probabilities"] = self.given[part]  # exactly, also where it is 0 or 1
        return found


@pytest.fixture(scope="module")
def edge_cases() -> Any:
    return load_facts("cnn/open_metric_edgecases")


def test_edge_cases(edge_cases: Any) -> None:
    """p exactly 0.5, no detection, one detection, 0 / 0."""
    evaluation = GivenProbabilities(edge_cases["p"], edge_cases["o"], edge_cases["co"])
    for metric in parse_metrics(["multi_label"]):
        values = metric.entry.function(evaluation, **metric.arguments)
        parts = values.tolist() if values.ndim == 2 else [None] * len(values)
        frame = pd.DataFrame(
            {
                "sample_id": evaluation.pairs.image.numpy().astype(str),
                "label": evaluation.pairs.label.numpy(),
                "value": values[:, 0].tolist() if values.ndim == 2 else values.tolist(),
                "status": "ok",
                "statistics": parts,
            }
        )
        column = COLUMNS[metric.label]
        expected = edge_cases["macro"][column]
        assert PERCENT * score(frame, metric.aggregate).value == pytest.approx(expected, abs=TOLERANCE), column


def test_the_decisions_change_the_number(cnn: Golden) -> None:
    """Each option of the metrics is alive: it moves the score of this network."""
    pairs = Pairs.where(torch.tensor(cnn.arrays["detected"]))
    maps = xaibench.explain(cnn.classifier, cnn.images, pairs, method="cam")
    labels = torch.zeros(cnn.arrays["logits"].shape, dtype=torch.bool)
    labels[:, :4] = True

    def value(**entry: Any) -> float:
        table = xaibench.evaluate(cnn.classifier, cnn.images, pairs, maps, [entry], labels=labels, reduce="scores")
        return float(table["value"][0])

    assert value(name="average_drop", normalise="resized") != value(name="average_drop")
    assert value(name="average_drop_of_others", labels="present") != value(name="average_drop_of_others")
    assert value(name="average_drop_of_others", lone="undefined") >= value(name="average_drop_of_others")
    assert value(name="average_drop", average="mean") != value(name="average_drop")
    assert value(name="f1_plus", average="f1_of_macro") >= value(name="f1_plus")  # a mean of a concave function
    assert value(name="f1_plus", average="f1_of_mean") != value(name="f1_plus")
