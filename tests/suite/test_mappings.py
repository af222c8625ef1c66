"""Parameters that are mappings, by the one that there is: `removal` of the perturbation metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import xaibench
from tests.support.console import call
from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.suite import Suite, load_suite, parse_metrics

SUITE = """\
name: demo
dataset: {name: shapes, samples: 2}
models: [shapes-resnet]
explain: present
methods: [cam]
metrics:
  - METRIC
"""
OLD = "{name: deletion, baseline: blur, steps: 3, unit: patch, score: logit}"
NEW = "{name: deletion, removal: {baseline: blur, unit: patch, steps: 3}, score: logit}"
FLOW = "{baseline: blur, steps: 3, unit: patch}"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_suite(path)
    return [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()]


def of(tmp_path: Path, metric: str, *overrides: str) -> Suite:
    return load_suite(write(tmp_path, SUITE.replace("METRIC", metric)), overrides)


def parameters(suite: Suite) -> Any:
    (metric,) = suite.bound_metrics()
    return metric.parameters


# -- what a suite may say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "removal"),
    [
        ("{name: insertion, removal: {steps: 4}}", {"baseline": "blur", "unit": "pixel", "grid": 8, "steps": 4}),
        ("{name: aopc, removal: {baseline: mean}}", {"baseline": "mean", "unit": "patch", "grid": 8, "steps": None}),
        ("{name: pixel_flipping, removal: {}}", {"baseline": "min", "steps": 32}),
        ("irof", {"baseline": "mean", "grid": 10}),
        ("road", {"steps": 10, "noise": 0.01}),
        ("completeness_gap", {"baseline": "zero"}),
    ],
)
def test_keys_that_are_left_out_have_the_metrics_defaults(tmp_path: Path, metric: str, removal: dict[str, Any]) -> None:
    blur = {"blur_kernel": 11, "blur_sigma": 5.0} if "insertion" in metric else {}
    assert parameters(of(tmp_path, metric))["removal"] == removal | blur


def test_the_function_takes_an_object() -> None:
    (metric,) = parse_metrics([{"name": "aopc", "removal": {"grid": 3}}])
    assert metric.arguments["removal"] == xaibench.evaluation.perturbation.Removal(unit="patch", grid=3, steps=None)
    assert json.loads(json.dumps(metric.parameters))["removal"]["grid"] == 3


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (
            "{name: deletion, removal: {blur_kernel: §4}}",
            "deletion: parameter 'removal.blur_kernel' = 4: an odd number is needed",
        ),
        (
            "{name: deletion, removal: {baseline: §white}}",
            "deletion: parameter 'removal.baseline' = 'white': allowed: 'zero', 'black', ",
        ),
        (
            "{name: mu_fidelity, removal: {baseline: §running_mean}}",
            "mu_fidelity: parameter 'removal.baseline' = 'running_mean': allowed: 'zero'",
        ),
        (
            "{name: pixel_flipping, removal: {§stepz: 4}}",
            "pixel_flipping: removal has no key 'stepz'; did you mean 'steps'?; allowed: baseline, steps",
        ),
        ("{name: irof, removal: {§noise: 0}}", "irof: removal has no key 'noise'; allowed: baseline, grid"),
        ("{name: irof, removal: {§1: 0}}", "irof: removal has no key 1; allowed: baseline, grid"),
        (
            "{name: irof, removal: §blur}",
            "irof: parameter 'removal' = 'blur': a mapping is needed, with keys of: baseline, grid",
        ),
        ("{name: irof, removal: §[blur]}", "irof: parameter 'removal' = ['blur']: a mapping is needed"),
        (
            "{name: deletion, removal: {steps: §null}}",
            "deletion: steps: null removes one unit at a time, which is for patches and segments; give a number",
        ),
        ("{name: deletion, steps: §null}", "deletion: steps: null removes one unit at a time"),
        ("{name: deletion, steps: §0}", "deletion: parameter 'steps' = 0: at least 1 is needed"),
        (
            "{name: deletion, §stpes: 4}",
            "deletion has no parameter 'stpes'; did you mean 'steps'? (a key of removal)",
        ),
        ("{name: irof, §steps: 4}", "irof has no parameter 'steps'; its parameters: removal, per_segment, score"),
        (
            "{name: deletion, steps: §4, removal: {steps: 5}}",
            "deletion: 'steps' stands in removal and, in the old spelling, beside it; remove the latter",
        ),
        ("{name: sparseness, §removal: {steps: 5}}", "sparseness has no parameter 'removal'; its parameters: none"),
    ],
)
def test_mistakes_in_a_mapping(tmp_path: Path, metric: str, problem: str) -> None:
    marked = SUITE.replace("METRIC", metric)
    before = marked[: marked.index("§")]
    place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
    (found,) = problems(tmp_path, marked.replace("§", ""))
    assert found.startswith(f"{place}: {problem}")


def test_all_mistakes_in_a_mapping_are_found(tmp_path: Path) -> None:
    found = problems(
        tmp_path, SUITE.replace("METRIC", "{name: aopc, removal: {grid: 0, unit: cell, size: 3}, order: up}")
    )
    assert [text.split(": ", 2)[2].split(" =")[0] for text in found] == [
        "parameter 'removal.grid'",
        "parameter 'removal.unit'",
        "removal has no key 'size'; allowed: baseline, unit, grid, steps",
        "parameter 'order'",
    ]


def test_the_command_line_reaches_into_a_mapping(tmp_path: Path) -> None:
    entry = "{name: deletion, removal: {baseline: blur}}"
    removal = parameters(of(tmp_path, entry, "metrics.0.removal.steps=5"))["removal"]
    assert (removal["baseline"], removal["steps"]) == ("blur", 5)
    bare = parameters(of(tmp_path, "{name: aopc}", "metrics.0.removal.grid=5"))["removal"]
    assert (bare["grid"], bare["unit"]) == (5, "patch")
    for given, message in (("removal.steps=0", "'removal.steps' = 0"), ("removal.stpes=1", "did you mean 'steps'")):
        with pytest.raises(UsageError, match=rf"--set metrics\.0\.{given}: deletion: .*{message}"):
            of(tmp_path, entry, f"metrics.0.{given}")
    with pytest.raises(
        UsageError, match=r"--set metrics\.0\.baseline=mean: deletion: 'baseline' stands in removal and"
    ):
        of(tmp_path, entry, "metrics.0.baseline=mean")
    assert len(of(tmp_path, entry, "metrics.0.steps=5").notes) == 1


def test_an_anchor_is_shared(tmp_path: Path) -> None:
    text = SUITE.replace(
        "- METRIC",
        "- {name: deletion, removal: &grey {baseline: mean, steps: 4}}\n"
        "  - {name: insertion, removal: {<<: *grey, steps: 5}}\n"
        "  - {name: srg, removal: *grey}",
    )
    found = [m.parameters["removal"] for m in load_suite(write(tmp_path, text)).bound_metrics()]
    assert [(removal["baseline"], removal["steps"]) for removal in found] == [("mean", 4), ("mean", 5), ("mean", 4)]


# -- the old spelling, until the next release -------------------------------------------------------------------------


def test_the_old_spelling_is_accepted_with_a_note(tmp_path: Path) -> None:
    old, new = of(tmp_path, OLD), of(tmp_path, NEW)
    assert old.notes == [f"deletion: write removal: {FLOW}; the old spelling goes with the next release"]
    assert new.notes == []
    assert parameters(old) == parameters(new)


def test_old_and_new_spelling_of_different_keys_go_together(tmp_path: Path) -> None:
    both = of(tmp_path, "{name: deletion, steps: 3, removal: {baseline: blur, unit: patch}, score: logit}")
    assert parameters(both) == parameters(of(tmp_path, NEW))
    (note,) = both.notes
    assert "write removal: {baseline: blur, unit: patch, steps: 3};" in note


def test_a_group_gets_one_note(tmp_path: Path) -> None:
    suite = of(tmp_path, "{name: correlation, baseline: black}")
    assert suite.notes == ["correlation: write removal: {baseline: black}; the old spelling goes with the next release"]
    assert {m.parameters["removal"]["baseline"] for m in suite.bound_metrics()} == {"black"}


def test_every_perturbation_metric_takes_the_old_spelling() -> None:
    keys = {(name, key): value for name in registry.metrics for key, value in _removal(name).items()}
    assert len({name for name, _ in keys}) == 16
    for (name, key), value in keys.items():
        assert registry.metrics[name].bind({key: value}) == registry.metrics[name].bind({})


def _removal(name: str) -> dict[str, Any]:
    mapping = registry.metrics[name].mappings.get("removal")
    return {} if mapping is None else mapping.complete({})


def test_the_old_spelling_in_python() -> None:
    """The same values, and one warning for each entry, at the caller's line."""
    classifier = xaibench.load_classifier("shapes-resnet")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pairs = xaibench.Pairs([0, 1], [0, 1])
    maps = xaibench.explain(classifier, images, pairs, method="cam")

    def value(*metrics: dict[str, Any]) -> list[float]:
        found: list[float] = xaibench.evaluate(classifier, images, pairs, maps, metrics).iloc[:, -1].tolist()
        return found

    with pytest.warns(FutureWarning, match="^deletion: write removal: ") as warned:
        old = value({"name": "deletion", "baseline": "mean", "steps": 3}, {"name": "srg"})
    assert [warning.filename for warning in warned] == [__file__]
    assert old == value({"name": "deletion", "removal": {"baseline": "mean", "steps": 3}}, {"name": "srg"})


# -- what a run writes, what `show` prints ------------------------------------------------------------------------------


def test_both_spellings_are_the_same_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the old spelling is found complete by the new one; the mapping is written whole, in plain values."""
    out = tmp_path / "run"
    path = write(tmp_path, SUITE.replace("METRIC", OLD))
    assert call(monkeypatch, "run", path, "--out", out, "--progress", "none") == 0
    assert capsys.readouterr().err.count(f"note: deletion: write removal: {FLOW}; ") == 1
    cells = {cell.name: cell.stat().st_mtime_ns for cell in out.glob("cells/**/*.parquet")}
    second = xaibench.run(write(tmp_path, SUITE.replace("METRIC", NEW)), out=out)
    assert second.outcome.computed == 0
    assert {cell.name: cell.stat().st_mtime_ns for cell in out.glob("cells/**/*.parquet")} == cells
    (metric,) = json.loads((out / "suite.resolved.json").read_text())["metrics"]
    removal = {"baseline": "blur", "unit": "patch", "grid": 8, "steps": 3, "blur_kernel": 11, "blur_sigma": 5.0}
    assert metric["parameters"] == {"removal": removal, "order": "morf", "score": "logit"}


def test_show_prints_the_mapping(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "show", "pixel_flipping", "--json") == 0
    shown = json.loads(capsys.readouterr().out)["parameters"]
    default = shown["removal"].removeprefix("mapping, default ")
    assert json.loads(default) == {"baseline": "min", "steps": 32}
    assert shown["removal.steps"] == "int, at least 1"
    assert shown["removal.baseline"].startswith("'zero' | 'black'")
