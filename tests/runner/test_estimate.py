"""The plan of a run against the passes that the run takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.console import call
from tests.support.passes import Counter, counting
from xaibench.core import registry
from xaibench.core.registry import BoundMethod
from xaibench.results.records import Records
from xaibench.runner import loop
from xaibench.runner.benchmark import Benchmark, benchmark_of
from xaibench.runner.cells import ModelCells, model_cells
from xaibench.runner.estimate import estimate
from xaibench.runner.settings import Settings
from xaibench.suite import load_suite

pytestmark = pytest.mark.usefixtures("empty_folder")

TEXT = """\
name: tiny
dataset: {name: shapes, split: test}
models: [{name: shapes-resnet}]
explain: predicted
methods:
- random
- cam
- grad_cam
- grad_cam_pp
- {name: hires_cam, layer: layer3}
- saliency
- {name: occlusion, window: 48, stride: 48}
- {name: smooth_grad, samples: 3}
- {name: smooth, samples: 2, base: saliency}
metrics:
- average_drop
- f1_plus
- {name: deletion, removal: {steps: 3}, as: deletion3}
- {name: insertion, removal: {steps: 3, baseline: zero}, as: insertion3}
- {name: srg, removal: {steps: 3}}
- {name: selectivity_gap, removal: {steps: 3}}
- {name: max_sensitivity, samples: 2}
- {name: relative_output_stability, samples: 2}
- {name: mu_fidelity, samples: 5}
- sparseness
"""


def prepared(folder: Path, limit: int) -> tuple[Benchmark, ModelCells]:
    (folder / "tiny.yaml").write_text(TEXT)
    suite = load_suite(folder / "tiny.yaml")
    benchmark = benchmark_of(suite, Settings(data_root=None, limit=limit, suite_folder=suite.folder))
    return benchmark, model_cells(benchmark.models[0], benchmark)


def counted(folder: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the passes of a run of one batch."""
    benchmark, model = prepared(folder, limit)
    monkeypatch.setattr(loop, "model_cells", lambda source, benchmark: model)
    settings = Settings(data_root=None, limit=limit, batch_size=limit, device="cpu", workers=0, fail_fast=True)
    with counting(model.classifier, monkeypatch) as counter:
        loop.Runner(benchmark, Records(folder / str(limit)), settings).run()
    return counter


def test_a_plan_is_what_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared passes, gradients, curves and noisy maps are counted once."""
    benchmark, model = prepared(tmp_path, 2)
    planned = estimate(model, model.cells, benchmark)
    two, four = (counted(tmp_path, limit, monkeypatch) for limit in (2, 4))
    assert planned.undeclared == set()
    assert (planned.forwards, planned.backwards) == (four.forwards - two.forwards, four.backwards - two.backwards)


def test_only_missing_cells_cost(tmp_path: Path) -> None:
    benchmark, model = prepared(tmp_path, 2)
    nothing = estimate(model, [], benchmark)
    assert (nothing.forwards, nothing.backwards) == (0, 0)
    cheap = estimate(model, [("cam", "sparseness")], benchmark)
    assert (cheap.forwards, cheap.backwards) == (2, 0)
    both = estimate(model, [("cam", "average_drop"), ("cam", "f1_plus")], benchmark)
    assert both.forwards == 2 * (1 + 2)  # what keeps is shared, what drops is not


def test_what_does_not_say_is_named(tmp_path: Path) -> None:
    benchmark, model = prepared(tmp_path, 2)
    silent = replace(registry.methods["cam"], name="silent", forwards=None)
    methods = [BoundMethod("cam", silent, {}), *model.methods[2:]]
    found = estimate(replace(model, methods=methods), [("cam", "average_drop")], benchmark)
    assert found.undeclared == {"silent"}
    assert found.forwards == 2 * (1 + 1)


def test_dry_run_prints_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT.replace("[{name: shapes-resnet}]", "[{name: shapes-resnet}, {name: shapes-resnet, as: twin}]")
    (tmp_path / "tiny.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)  # away from the runs of other suites
    assert call(monkeypatch, "run", tmp_path / "tiny.yaml", "--limit", "2", "--dry-run") == 0
    benchmark, model = prepared(tmp_path, 2)
    planned = estimate(model, model.cells, benchmark)
    words = capsys.readouterr().out.replace("│", " ").split()
    for number in (planned.forwards, planned.backwards):
        assert words.count(f"~{number:,.0f}") == 2
        assert f"~{2 * number:,.0f}" in words
