"""From a suite to a leaderboard: resume, crashes, partial runs, failures, bad samples."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import xaibench
from xaibench.core import registry
from xaibench.core.errors import SampleError, UsageError
from xaibench.data import Dataset, Sample, dataset
from xaibench.data.datasets.shapes import shapes
from xaibench.evaluation import Evaluation
from xaibench.forward import Forward, Pairs
from xaibench.results.records import PART_SIZE
from xaibench.runner.run_directory import Run

SUITE = """\
name: tiny
dataset: {name: shapes, samples: 10}
models:
  - {name: test_resnet, input: {size: 64, resize: squash}}
explain: present
methods: [cam, saliency, random, oracle]
metrics: [average_drop, f1_plus, energy_pointing_game]
"""


def run(tmp_path: Path, text: str = SUITE, out: str = "run", **options: Any) -> Run:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return xaibench.run(path, out=tmp_path / out, **options)


def test_a_layer_that_one_of_two_models_lacks(tmp_path: Path) -> None:
    """It is left out there, with a note; a suite of one model is refused."""
    text = SUITE.replace("[cam, saliency, random, oracle]", "[{name: grad_cam, layer: layer3}, random]")
    model = "  - {name: test_resnet, input: {size: 64, resize: squash}}\n"
    other = "  - {name: test_efficientnet, input: {size: 64, resize: squash}}\n"
    result = run(tmp_path, text.replace(model, model + other), limit=2)
    found = {(row.model, row.method) for row in result.scores.itertuples()}
    assert found == {("test_resnet", "grad_cam"), ("test_resnet", "random"), ("test_efficientnet", "random")}
    (note,) = result.outcome.models[1].skipped
    assert "grad_cam left out: model test_efficientnet has no layer 'layer3'" in note
    with pytest.raises(UsageError, match="has no layer 'layer3'"):
        run(tmp_path, text.replace(model, other), out="one", limit=2)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("done")
    return folder, run(folder)


def test_the_files_of_a_run(done: tuple[Path, Run]) -> None:
    folder, result = done
    out = folder / "run"
    assert (out / "suite.yaml").read_text() == SUITE
    resolved = json.loads((out / "suite.resolved.json").read_text())
    assert resolved["metrics"][0]["parameters"]["normalise"] == "native"
    (attempt,) = (out / "attempts").glob("*.json")
    facts = json.loads(attempt.read_text())
    assert facts["exit_code"] == 0
    assert facts["versions"]["torch"] == torch.__version__
    table = pd.read_csv(out / "leaderboard.csv")
    assert list(table.columns) == ["model", "method", "average_drop", "f1_plus", "energy_pointing_game", "note"]
    assert list(table["method"]) == ["cam", "saliency", "random", "oracle"]
    assert len(list(out.glob("cells/shapes/test_resnet/*/*.parquet"))) == 12
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "scores.parquet")[["n", "value"]], pd.read_csv(out / "scores.csv")[["n", "value"]]
    )
    assert result.scores.set_index(["method", "metric"]).loc[("oracle", "energy_pointing_game"), "value"] == 1


def test_an_untrained_model_is_marked_everywhere(done: tuple[Path, Run]) -> None:
    folder, result = done
    assert result.scores["untrained"].all()
    assert any("untrained" in note for note in result.leaderboard.notes)
    assert "untrained" in (folder / "run" / "leaderboard.md").read_text()
    assert pd.read_csv(folder / "run" / "leaderboard.csv")["note"].str.contains("untrained").all()


def test_the_second_run_computes_nothing(done: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, first = done

    def no_forward(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass was made")

    before = (folder / "run" / "leaderboard.csv").read_text()
    monkeypatch.setattr("xaibench.runner.loop.Forward", no_forward)
    again = run(folder)
    assert again.outcome.computed == 0
    assert (folder / "run" / "leaderboard.csv").read_text() == before
    pd.testing.assert_frame_equal(again.scores, first.scores)


def test_the_scores_are_those_of_the_api(done: tuple[Path, Run]) -> None:
    """The same numbers without runner, records and batches."""
    from xaibench.data.batch import collate
    from xaibench.suite import load_suite

    folder, result = done
    samples = xaibench.load_dataset("shapes", samples=10)[:]
    suite = load_suite(folder / "run" / "suite.yaml")
    classifier = xaibench.load_classifier(
        "test_resnet", num_classes=8, input=suite.models[0].input.model_dump(exclude_none=True), seed=suite.seed
    )
    batch = collate(samples, classifier.geometry).to(classifier.geometry, classifier.device, torch.float32)
    pairs = Pairs.where(batch.ground_truth.present)
    scores = result.scores.set_index(["method", "metric"])["value"]
    for method in ("cam", "saliency"):
        maps = xaibench.explain(classifier, batch.images, pairs, method=method)
        table = xaibench.evaluate(
            classifier, batch.images, pairs, maps, ["average_drop", "f1_plus", "energy_pointing_game"],
            masks=batch.ground_truth.mask, labels=batch.ground_truth.present, reduce="scores",
        ).set_index("metric")  # fmt: skip
        for metric, value in table["value"].items():
            assert value == pytest.approx(scores[method, metric], abs=1e-5)


def test_batch_size_does_not_change_scores(done: tuple[Path, Run], tmp_path: Path) -> None:
    other = run(tmp_path, batch_size=3)
    np.testing.assert_allclose(other.scores["value"], done[1].scores["value"], atol=1e-5)
    assert list(other.scores["fingerprint"]) == list(done[1].scores["fingerprint"])


def test_workers_do_not_change_a_digit(done: tuple[Path, Run], tmp_path: Path) -> None:
    other = run(tmp_path, workers=2)
    columns = [column for column in other.scores if column != "seconds_per_sample"]
    pd.testing.assert_frame_equal(other.scores[columns], done[1].scores[columns], check_exact=True)


def test_double_precision_is_another_cell_with_nearly_the_same_scores(done: tuple[Path, Run], tmp_path: Path) -> None:
    double = run(tmp_path, SUITE + "precision: float64\n")
    both = double.scores.merge(done[1].scores, on=["model", "method", "metric"], suffixes=("", "_single"))
    assert len(both) == len(done[1].scores)
    assert not (both.fingerprint == both.fingerprint_single).any()
    np.testing.assert_allclose(both.value, both.value_single, atol=1e-4)
    changed = both.query("method == 'cam' and metric == 'average_drop'")
    assert (changed.value != changed.value_single).all()


def test_methods_that_are_left_out_are_said_once_per_reason(tmp_path: Path) -> None:
    text = SUITE.replace("[cam, saliency, random, oracle]", "[cam, raw_attention, attention_rollout]")
    (note,) = run(tmp_path, text, limit=1).outcome.models[0].skipped
    assert note.startswith("test_resnet: raw_attention, attention_rollout left out: ResNet has no attention")


def test_limit_marks_the_run_partial(tmp_path: Path) -> None:
    result = run(tmp_path, limit=4)
    assert result.scores["partial"].all()
    assert any("Partial" in note for note in result.leaderboard.notes)


@pytest.mark.parametrize(
    "change",
    [
        ("seed", "name: tiny\nseed: 1"),
        ("threshold", "name: tiny\nthreshold: 0.4"),
        ("explain", "explain: predicted"),
    ],
)
def test_fingerprints_cover_what_changes_numbers(
    done: tuple[Path, Run], tmp_path: Path, change: tuple[str, str]
) -> None:
    text = (
        SUITE.replace("explain: present", change[1])
        if change[0] == "explain"
        else SUITE.replace("name: tiny", change[1])
    )
    other = run(tmp_path, text)
    assert not set(other.scores["fingerprint"]) & set(done[1].scores["fingerprint"])


def test_parameters_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    text = SUITE.replace(
        "[cam, saliency, random, oracle]", "[{name: saliency, reduce: sum}, {name: saliency, as: other}]"
    )
    result = run(tmp_path, text)
    assert result.scores["fingerprint"].is_unique
    by_label = result.scores.set_index(["method", "metric"])["value"]
    assert by_label["saliency", "average_drop"] != by_label["other", "average_drop"]


KILL = f"""\
name: killed
dataset: {{name: shapes, samples: {2 * PART_SIZE + 9}}}
models: [{{name: test_resnet, input: {{size: 48, resize: squash}}}}]
explain: present
methods: [cam, random]
metrics: [f1_plus]
"""


def test_killed_half_way_and_run_again(tmp_path: Path) -> None:
    """SIGKILL after the first part; the second run finishes with the same scores to the last digit."""
    path = tmp_path / "suite.yaml"
    path.write_text(KILL)
    command = [
        sys.executable,
        "-m",
        "xaibench",
        "run",
        str(path),
        "--out",
        str(tmp_path / "killed"),
        "--progress",
        "none",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "killed").glob("cells/**/*.1of3.parquet")):
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "leaderboard.csv").exists()
    resumed = run(tmp_path, KILL, out="killed")
    whole = run(tmp_path, KILL, out="whole")
    assert 0 < resumed.outcome.computed < whole.outcome.computed
    columns = ["value", "n", "n_undefined", "std", "ci_low", "ci_high", "fingerprint"]
    pd.testing.assert_frame_equal(resumed.scores[columns], whole.scores[columns], check_exact=True)


@pytest.mark.slow
def test_interrupted_with_workers(tmp_path: Path) -> None:
    """Ctrl-C reaches the workers too; the parent alone answers, ends them in order and keeps what is finished."""
    path = tmp_path / "suite.yaml"
    path.write_text(KILL.replace("samples: 137", "samples: 3000"))
    command = [
        sys.executable,
        "-m",
        "xaibench",
        "run",
        str(path),
        "--out",
        str(tmp_path / "run"),
        "--progress",
        "none",
        "--device",
        "cpu",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while not list((tmp_path / "run").glob("cells/**/*.1of47.parquet")):
        assert process.poll() is None, "finished before it could be interrupted"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "everything finished is kept" in told
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of the group is left
    (attempt,) = (tmp_path / "run" / "attempts").glob("*.json")
    assert json.loads(attempt.read_text())["exit_code"] == 130


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A place to register entries that are gone after the test."""
    for kind in (registry.methods, registry.metrics, registry.datasets):
        list(kind)  # loaded before the copy
        monkeypatch.setattr(kind, "_entries", dict(kind._entries))
    return registry


def test_a_failing_metric_costs_its_cells_only(tmp_path: Path, extra: Any) -> None:
    @registry.metric(better="higher", range=(0, 1), source="test", cost="none")
    def breaks(evaluation: Evaluation) -> Tensor:
        """Fails on purpose."""
        raise ValueError("on purpose")

    text = SUITE.replace("average_drop,", "breaks,")
    result = run(tmp_path, text)
    assert len(result.outcome.failed) == 4
    assert result.outcome.failed[0].startswith("test_resnet / cam / breaks: ValueError: on purpose (")
    assert "test_run_directory.py:" in result.outcome.failed[0]
    assert result.exit_code == 3
    of_breaks = result.scores[result.scores["metric"] == "breaks"]
    assert of_breaks["value"].isna().all()
    assert (of_breaks["n"] == 0).all()
    assert result.scores[result.scores["metric"] != "breaks"]["value"].notna().any()
    assert "| failed |" in result.leaderboard.markdown()
    assert result.leaderboard.wide()["note"].str.contains("failed: breaks").all()
    (error, *_) = (tmp_path / "run").glob("cells/**/*.error.json")
    assert "ValueError: on purpose" in json.loads(error.read_text())["error"]
    mended = dataclasses.replace(registry.metrics["breaks"], function=registry.metrics["sparseness"].function)
    registry.metrics._entries["breaks"] = mended
    assert not run(tmp_path, text).outcome.failed  # mended: computed now, and the error is gone
    assert not list((tmp_path / "run").glob("cells/**/*.error.json"))


def test_nothing_more_is_read_when_every_cell_has_failed(
    tmp_path: Path, extra: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @registry.method(source="test", cost="none")
    def hopeless(forward: Forward, pairs: Pairs) -> Tensor:
        """Fails on purpose."""
        raise ValueError("on purpose")

    read: list[int] = []
    original = shapes.load
    monkeypatch.setattr(shapes, "load", lambda self, index: read.append(index) or original(self, index))
    result = run(tmp_path, KILL.replace("[cam, random]", "[hopeless]"), workers=0)
    assert len(result.outcome.failed) == 1
    assert read == list(range(PART_SIZE))  # its part was asked for as a whole


def test_a_method_that_returns_nonsense_is_refused(tmp_path: Path, extra: Any) -> None:
    @registry.method(source="test", cost="none")
    def flat(forward: Forward, pairs: Pairs) -> Tensor:
        """Not maps."""
        return torch.zeros(len(pairs))

    result = run(tmp_path, SUITE.replace("[cam, saliency, random, oracle]", "[flat, cam]"))
    assert "method flat returned" in result.outcome.failed[0]
    assert result.scores.set_index("method")["value"].notna().groupby(level=0).any().to_dict() == {
        "flat": False,
        "cam": True,
    }
    (note,) = result.leaderboard.wide().set_index("method").loc[["flat"], "note"]
    assert note.endswith("; failed")


def test_out_of_memory_halves_the_batch(tmp_path: Path, extra: Any, done: tuple[Path, Run]) -> None:
    sizes: list[int] = []
    original = registry.methods["cam"].function

    @registry.method(source="test", needs=("features", "linear_head"), cost="none")
    def hungry(forward: Forward, pairs: Pairs) -> Tensor:
        """CAM that runs out of memory on more than two images."""
        if len(forward.images) > 2:
            raise torch.OutOfMemoryError("too much")
        sizes.append(len(forward.images))
        return original(forward, pairs)

    result = run(tmp_path, SUITE.replace("[cam, saliency, random, oracle]", "[hungry]"))
    assert sum(sizes) == 10
    assert max(sizes) <= 2
    expected = done[1].scores.query("method == 'cam'")["value"]
    np.testing.assert_allclose(result.scores["value"], expected, atol=1e-5)


def register_broken() -> None:
    @dataset(classes=("a", "b"), splits=("test",), source="test")
    class broken(Dataset):
        """Six images; numbers 1 and 4 cannot be read."""

        def __init__(self, *, split: str = "test") -> None:
            super().__init__(split=split)

        @property
        def ids(self) -> list[str]:
            return [f"s{i}" for i in range(6)]

        @property
        def revision(self) -> str:
            return "1"

        def load(self, index: int) -> Sample:
            if index in (1, 4):
                raise SampleError(f"/data/s{index}.jpg: truncated")
            image = Image.fromarray(np.full((40, 40, 3), 40 * index, np.uint8))
            return Sample(f"s{index}", image, np.array([1, 0], np.uint8), np.zeros(2, np.uint8), None, "test")


BROKEN = """\
name: broken
dataset: broken
models: [{name: test_resnet, input: {size: 64, resize: squash}}]
explain: present
methods: [cam]
metrics: [average_drop]
"""


def test_bad_samples_fail_the_run_or_are_counted(tmp_path: Path, extra: Any) -> None:
    register_broken()
    with pytest.raises(SampleError, match=r"/data/s1.jpg: truncated"):
        run(tmp_path, BROKEN)
    result = run(tmp_path, BROKEN + "max_bad_samples: 2\n")
    assert set(result.outcome.bad) == {"s1", "s4"}
    assert result.scores["n_error"].tolist() == [2]
    assert result.scores["n"].tolist() == [4]
    assert any("could not be read" in note for note in result.leaderboard.notes)
    again = run(tmp_path, BROKEN + "max_bad_samples: 2\n")  # from the records: still counted
    assert again.scores["n_error"].tolist() == [2]


def test_metrics_that_need_masks_are_refused_before_anything_runs(tmp_path: Path, extra: Any) -> None:
    register_broken()
    with pytest.raises(
        UsageError, match=r"suite.yaml:6:11: metric 'pointing_game' needs masks, which data set 'broken'"
    ):
        run(tmp_path, BROKEN.replace("[average_drop]", "[pointing_game]"))
    assert not (tmp_path / "run").exists()


def test_a_model_with_no_fitting_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no method goes with test_resnet"):
        run(tmp_path, SUITE.replace("[cam, saliency, random, oracle]", "[raw_attention]"))


def test_images_without_detections_are_no_error(tmp_path: Path) -> None:
    text = SUITE.replace("explain: present", "explain: detected\nthreshold: 1.0")
    result = run(tmp_path, text)
    assert (result.scores["n"] == 0).all()
    assert result.scores["value"].isna().all()


def test_a_row_without_any_value_is_a_failure(tmp_path: Path, extra: Any) -> None:
    @registry.method(source="test", cost="none")
    def nothing(forward: Forward, pairs: Pairs) -> Tensor:
        """NaN only."""
        return torch.full((len(pairs), 2, 2), torch.nan)

    result = run(tmp_path, SUITE.replace("[cam, saliency, random, oracle]", "[nothing, cam]"), limit=2)
    assert not result.outcome.failed
    assert result.exit_code == 3
    assert "test_resnet / nothing: no value is defined." in result.leaderboard.notes
    notes = result.leaderboard.wide().set_index("method")["note"]
    assert "no value is defined" in notes["nothing"]
    assert "no value is defined" not in notes["cam"]


def test_a_suite_may_be_a_mapping(tmp_path: Path) -> None:
    mapping = yaml.safe_load(SUITE)
    found = xaibench.run(mapping, out=tmp_path / "run", limit=2, methods=["cam", "rand*"], metrics="average_drop")
    assert list(found.scores["method"]) == ["cam", "random"]
    assert set(found.scores["metric"]) == {"average_drop"}
    with pytest.raises(UsageError, match=r"suite:.*unknown method 'cm'; did you mean 'cam'"):
        xaibench.run({**mapping, "methods": ["cm"]}, out=tmp_path / "run")
