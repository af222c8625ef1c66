"""The command line: output, exit codes, and what it says when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import xaibench
from tests.support.console import SUITE, call
from tests.support.paths import ROOT
from xaibench import run as run_suite
from xaibench.core.errors import UsageError
from xaibench.runner.benchmark import resolved
from xaibench.suite import load_suite, shipped_suites


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def test_run_and_leaderboard(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "plain", "--device", "cpu") == 0
    first = capsys.readouterr()
    assert "untrained model" in first.err
    assert "raw_attention left out: ResNet has no attention" in first.err
    assert "images/s, ETA" in first.err
    assert "cam" in first.out
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "plain", "--device", "cpu") == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert "everything is there already" in second.err
    assert call(monkeypatch, "leaderboard", out, "--format", "csv") == 0
    assert capsys.readouterr().out == (out / "leaderboard.csv").read_text()
    assert call(monkeypatch, "leaderboard", out, "-o", tmp_path / "board.md") == 0
    assert "| cam |" in (tmp_path / "board.md").read_text()
    assert call(monkeypatch, "leaderboard", tmp_path) == 2
    assert "no scores.csv" in capsys.readouterr().err


def test_dry_run_does_nothing(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", suite, "--out", tmp_path / "run", "--dry-run") == 0
    assert "test_resnet" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_flags_change_the_suite(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--method", "c*", "--metric", "spars*", "--limit", "2", "--seed", "4", "--set", "dataset.seed=1"]
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "none", *flags) == 0
    resolved = json.loads((out / "suite.resolved.json").read_text())
    assert resolved["seed"] == 4
    assert resolved["dataset"]["seed"] == 1
    board = (out / "leaderboard.csv").read_text()
    assert board.splitlines()[0] == "model,method,sparseness,note"
    assert "partial run" in board


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "shape"], "did you mean 'shapes'"),
        (["run", "{suite}", "--method", "zzz"], "chooses nothing"),
        (["run", "{suite}", "--batch-size", "many"], "a positive number, or auto"),
        (["run", "{suite}", "--workers", "some"], "a number from 0, or auto"),
        (["run", "{suite}", "--device", "cuda:99"], "not available here"),
        (["run", "{suite}", "--device", "gpu"], "unknown device 'gpu'; did you mean 'cuda'?"),
        (["run", "{suite}", "--device", "cpuu"], "did you mean 'cpu'?"),
        (["run", "{suite}", "--device", "zzz"], "allowed: auto, cpu, cuda, mps"),
        (
            ["run", "{suite}", "--method", "cam,raw_atention"],
            "--method 'raw_atention' chooses nothing of suite tiny; did you",
        ),
        (["run", "{suite}", "--method", "cam", "--method", "zzz"], "chooses nothing of suite tiny: cam, raw_attention"),
        (["run", "{suite}", "--metric", "cam"], "--metric 'cam' chooses nothing"),
        (["run", "{suite}", "--model", ","], "--model ',': give names or globs"),
        (
            ["run", "shapes", "--quick", "--method", "lime"],
            "--method 'lime' chooses nothing of the quick part of suite shapes",
        ),
        (["run", "{suite}", "{suite}"], "are both called 'tiny'; change one `name`, or run them apart"),
        (["run", "{suite}", "--set", "metrics.0=average_drp"], "did you mean 'average_drop'"),
        (["run", "{suite}", "--plugin", "no_such.py"], "no such file"),
        (["run", "."], "this is a folder; give the path of a .yaml file"),
        (["run", "{suite}", "--set", "explain"], "--set 'explain': key=value is needed"),
        (["run", "{suite}", "--set", "threshold=abc"], "error: --set threshold=abc: threshold: a number is needed"),
        (["run", "{suite}", "--seed=-1"], "error: --set seed=-1: seed: at least 0 is needed; found -1"),
        (["list", "methods", "zzz"], "no methods match"),
        (["list", "methods", "GradCAM"], "did you mean 'grad_cam'"),
        (["show", "grad_kam"], "did you mean 'grad_cam'"),
        (["train", "no.yaml"], "no such file"),
        (["train", "shapes"], "did you mean 'shapes-vit'?; or give the path of a .yaml recipe"),
        (
            ["data", "check", "shapes", "--option", "samples=[1"],
            "--option samples=[1: not YAML: the list that opens here",
        ),
        (["list", "nothing"], "methods"),
        (["frobnicate"], "No such command"),
    ],
)
def test_usage_errors_end_with_2(
    suite: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert call(monkeypatch, *[argument.format(suite=suite) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_lists_are_repeated_and_hold_commas_and_globs(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write_text(SUITE.replace("cam, raw_attention", "cam, grad_cam, saliency, random, center"))
    out = tmp_path / "run"
    flags = ["--method", "cam, sal*", "--method", "random", "--metric", "average_drop,sparseness", "--model", "test_*"]
    assert call(monkeypatch, "run", suite, "--out", out, "--progress", "none", *flags) == 0
    rows = (out / "leaderboard.csv").read_text().splitlines()
    assert rows[0].startswith("model,method,average_drop,sparseness")
    assert [row.split(",")[1] for row in rows[1:]] == ["cam", "saliency", "random"]


def test_a_filter_limits_the_work_and_not_the_table(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_text(SUITE.replace("cam, raw_attention", "cam, grad_cam"))
    out = tmp_path / "run"
    command = ["run", suite, "--out", out, "--progress", "none"]
    assert call(monkeypatch, *command, "--method", "grad_cam") == 0
    assert len((out / "leaderboard.csv").read_text().splitlines()) == 2
    assert call(monkeypatch, *command, "--method", "cam", "--metric", "sparseness") == 0
    table = pd.read_csv(out / "leaderboard.csv").set_index("method")
    assert table["sparseness"].notna().all()
    assert table["average_drop"].notna().to_dict() == {"cam": False, "grad_cam": True}
    assert "2 images" not in capsys.readouterr().err


def test_several_suites_get_folders_of_their_names(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "tiny.yaml"  # the same file name, another suite
    other.write_text(SUITE.replace("name: tiny", "name: other"))
    flags = ["--out", tmp_path / "runs", "--method", "cam", "--metric", "sparseness", "--progress", "none"]
    assert call(monkeypatch, "run", suite, other, *flags) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["other", "tiny"]
    other.write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    for place in ([], ["--out", "elsewhere"]):
        assert call(monkeypatch, "run", suite, other, *place) == 2
        assert f"{suite} and {other} are both called 'tiny'" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "runs" / "tiny").rename(tmp_path / "runs" / "kept")
    other.write_text(SUITE.replace("name: tiny", "name: other") + "titel: x\n")
    assert call(monkeypatch, "run", suite, other, "--progress", "none") == 2  # nothing runs before all are checked
    assert not (tmp_path / "runs" / "tiny").exists()


def test_another_suite_of_the_same_name_does_not_overwrite_a_run(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "tiny.yaml"
    other.write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    flags = ["--method", "cam", "--metric", "sparseness", "--progress", "none"]
    assert call(monkeypatch, "run", suite, *flags) == 0
    table = (tmp_path / "runs" / "tiny" / "scores.csv").read_bytes()
    assert call(monkeypatch, "run", other, *flags) == 2
    assert f"another suite that is called 'tiny' ({suite}); choose another" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="another suite that is called 'tiny'"):
        xaibench.run(other)
    assert (tmp_path / "runs" / "tiny" / "scores.csv").read_bytes() == table
    suite.write_text(SUITE + "title: changed\n")
    assert call(monkeypatch, "run", suite, *flags) == 0  # the same file, whatever it says
    assert call(monkeypatch, "run", other, "--out", "runs/tiny", *flags) == 0  # asked for


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(SUITE.replace("cam, raw_attention", "cam"))
    run_suite(str(folder / "tiny.yaml"), out=folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["-o", "board.csv"], "leaderboard.csv"),
        (["-o", "board.md"], "leaderboard.md"),
        (["-o", "board.md", "--format", "csv"], "leaderboard.csv"),
        (["-o", "board", "--format", "md"], "leaderboard.md"),
        (["-o", "-", "--format", "md"], "leaderboard.md"),
        (["--format", "csv"], "leaderboard.csv"),
    ],
)
def test_the_ending_decides_the_format(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "leaderboard", finished, *flags) == 0
    written = list(tmp_path.iterdir())
    assert [path.name for path in written] == [flag for flag in flags if flag.startswith("board")]
    text = written[0].read_text(encoding="utf-8") if written else capsys.readouterr().out
    assert text == (finished / expected).read_text(encoding="utf-8")


def test_a_table_goes_into_a_file_where_it_is_asked_for(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "leaderboard", finished, "-o", "-") == 0
    table = capsys.readouterr().out
    assert "sparseness" in table
    assert call(monkeypatch, "leaderboard", finished, "--format", "table", "-o", tmp_path / "table.txt") == 0
    assert (tmp_path / "table.txt").read_text(encoding="utf-8") == table


@pytest.mark.parametrize(
    ("output", "code", "sentence"),
    [
        ("board.tex", 2, "unknown ending '.tex'; allowed: .csv, .md; or choose with --format"),
        ("board", 2, "unknown ending ''"),
        ("absent/board.md", 4, "there is no directory absent; make it first"),
        (".", 4, "is a directory; give the name of a file"),
    ],
)
def test_places_and_endings_that_do_not_serve(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str,
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "leaderboard", finished, "-o", output) == code
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_data_ends_with_4(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_text(SUITE.replace("name: test_resnet,", "name: test_resnet, checkpoint: absent.safetensors,"))
    assert call(monkeypatch, "run", suite, "--progress", "none") == 4
    assert "absent.safetensors: no such file" in capsys.readouterr().err


def test_failed_cells_end_with_3(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "failing_plugin.py"
    plugin.write_text(
        "from xaibench import method\n\n\n"
        "@method(source='test', cost='none')\n"
        "def always_fails(forward, pairs):\n    '''Fails.'''\n    raise ValueError('on purpose')\n"
    )
    suite.write_text(SUITE.replace("raw_attention", "always_fails"))
    arguments = ["run", suite, "--out", tmp_path / "run", "--progress", "none", "--plugin", plugin]
    from xaibench.core import registry

    monkeypatch.setattr(registry.methods, "_entries", dict(registry.methods._entries))
    assert call(monkeypatch, *arguments) == 3
    captured = capsys.readouterr()
    (last,) = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert "test_resnet / always_fails: ValueError: on purpose (" in last
    assert last.endswith("failing_plugin.py:7); 2 metrics are left out")
    assert "cam" in captured.out
    assert "always_fails" in captured.out  # a row, marked
    assert "failed" in (tmp_path / "run" / "leaderboard.csv").read_text().splitlines()[2]
    monkeypatch.delitem(sys.modules, "xaibench_plugin_failing_plugin")


def test_validate(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "validate", suite) == 1
    assert "method 'raw_attention' goes with no model" in capsys.readouterr().out
    suite.write_text(SUITE.replace(", raw_attention", ""))
    assert call(monkeypatch, "validate", suite, "shapes") == 0
    assert capsys.readouterr().out.count(": ok") == 2
    suite.write_text(SUITE + "titel: x\nname: again\n")
    assert call(monkeypatch, "validate", suite, "--json") == 2
    (report,) = json.loads(capsys.readouterr().out)
    assert len(report["problems"]) == 2


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_suite_runs_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    for verb in ("validate", "run"):
        command = [sys.executable, "-m", "xaibench", verb, "empty.yaml"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert "empty.yaml:1:1: the file is empty; a mapping of keys to values is needed" in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "empty.yaml"]


@pytest.mark.parametrize(
    ("change", "verb", "code", "problem"),
    [
        (
            ("[cam, raw_attention]", "[{name: grad_cam, layer: layr4}]"),
            "validate",
            1,
            "5:35: model test_resnet has no layer 'layr4'; did you mean 'layer4'?",
        ),
        (
            ("[cam, raw_attention]", "[{name: grad_cam, layer: layr4}]"),
            "run",
            2,
            "5:35: model test_resnet has no layer 'layr4'; did you mean 'layer4'?",
        ),
        (("test_resnet,", "test_resnet, layer: layr4,"), "validate", 1, "3:37: model test_resnet has no layer 'layr4'"),
        (
            ("test_resnet,", "test_resnet, checkpoint: a.pth,"),
            "validate",
            1,
            "3:42: checkpoint {folder}/a.pth: no such file",
        ),
        (
            ("test_resnet,", "test_resnet, checkpoint: a.pth,"),
            "run",
            4,
            "3:42: checkpoint {folder}/a.pth: no such file",
        ),
        (
            ("test_resnet,", "test_resnet, checkpoint: tiny.yaml,"),
            "validate",
            1,
            "3:42: checkpoint {folder}/tiny.yaml: not a plain state dict",
        ),
        (("[cam,", "[cam, oracle,"), "validate", 1, "5:24: method 'raw_attention' goes with no model of the suite"),
        (
            ("test_resnet,", "test_resnet, num_classes: 3,"),
            "validate",
            1,
            "3:10: model test_resnet: num_classes 3, but",
        ),
        (
            ("test_resnet,", "test_resnet, options: {layers: [1]},"),
            "run",
            2,
            "3:39: model 'test_resnet' does not take these options: {{'layers': [1], 'num_classes': 8}} (ZeroDivisionError: ",
        ),
        (
            ("test_resnet,", "test_resnet, options: {block: 3},"),
            "validate",
            1,
            "3:39: model 'test_resnet' does not take these options: {{'block': 3, 'num_classes': 8}} (AttributeError: ",
        ),
        (
            ("test_resnet,", "resnet18, options: {layers: []},"),
            "run",
            2,
            "3:10: model resnet18 does not take images [3, 64, 64] (AttributeError: 'ResNet' object has no attribute ",
        ),
        (
            ("test_resnet,", "test_resnet, options: {pretrained: true},"),
            "run",
            2,
            "3:40: pretrained stands beside the model's name, not among its options",
        ),
    ],
)
def test_what_needs_the_model_has_a_line_too(
    suite: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    verb: str,
    code: int,
    problem: str,
) -> None:
    monkeypatch.chdir(suite.parent)
    suite.write_text(SUITE.replace(*change))
    assert call(monkeypatch, verb, suite) == code
    captured = capsys.readouterr()
    assert f"{suite}:{problem.format(folder=suite.parent)}" in captured.out + captured.err


def test_an_untrained_model_is_slow(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for pairs, told in (("detected", True), ("present", False)):
        suite.write_text(SUITE.replace(", raw_attention", "").replace("explain: present", f"explain: {pairs}"))
        assert call(monkeypatch, "validate", suite) == 0
        printed = capsys.readouterr().out
        assert "test_resnet: no checkpoint, so it runs untrained" in printed
        assert ("detects about half of all labels" in printed) == told


def test_what_is_kept_for_compare(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Facts of metrics are written, and `leaderboard`, which changes nothing today; `show` says what each is for."""
    suite.write_text(SUITE + "leaderboard: {reference: cam, rank_by: [sparseness]}\n")
    found = resolved(load_suite(suite), xaibench.load_dataset("shapes", samples=1))
    written = json.loads(json.dumps(found))
    assert written["class_names"][:2] == ["circle", "square"]
    assert written["leaderboard"] == {"reference": "cam", "rank_by": ["sparseness"]}
    assert [metric["minimum_effect"] for metric in written["metrics"]] == [0.005, 0.005]
    assert [metric["better"] for metric in written["metrics"]] == ["lower", "higher"]
    assert [metric["aggregate"] for metric in written["metrics"]] == ["label_macro", "mean"]
    for name, key, use in (
        ("sparseness", "minimum effect", "`compare` takes a smaller difference for none"),
        ("shapes-full", "leaderboard", "changes nothing today"),
    ):
        assert call(monkeypatch, "show", name, "--json") == 0
        assert use in json.loads(capsys.readouterr().out)[key]["use"]


def test_groups_of_metrics_are_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "list", "metrics", "seeds", "--json") == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names == ["seed_area_ratio", "seed_miou", "seed_miou_k", "seed_pixel_accuracy"]
    assert call(monkeypatch, "show", "seeds", "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["kind"], list(card["metrics"])) == ("group of metrics", names)


def test_list_suites_looks_nothing_up() -> None:
    """Titles of suites are printed without importing a model, a method or a data set."""
    code = (
        "import sys; sys.argv = ['xaibench', 'list', 'suites']\n"
        "from xaibench.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'pyarrow', 'scipy', 'PIL', 'xaibench.methods', 'xaibench.data'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in printed
    for name, path in shipped_suites().items():
        assert f"{name} " in printed
        assert load_suite(path).title[:40] in printed


def test_leaderboard_imports_no_torch() -> None:
    scores = ROOT / "leaderboards" / "shapes.scores.csv"
    code = (
        f"import sys; sys.argv = ['xaibench', 'leaderboard', {str(scores)!r}]\n"
        "from xaibench.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in printed
    assert "shapes-resnet" in printed


@pytest.mark.parametrize("kind", ["methods", "metrics", "models", "datasets", "suites"])
def test_list(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "list", kind, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["summary"] for row in rows)
    assert call(monkeypatch, "list", kind, rows[0]["name"], "--long") == 0
    assert rows[0]["name"] in capsys.readouterr().out


def test_list_methods_of_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "list", "methods", "--model", "shapes-vit", "--json") == 0
    fits = {row["name"]: row["goes with it"] for row in json.loads(capsys.readouterr().out)}
    assert fits["raw_attention"] == fits["grad_cam"] == "yes"
    assert fits["cam"].startswith("no: its head is not linear")


@pytest.mark.parametrize("name", ["grad_cam", "f1_plus", "shapes", "shapes-resnet", "resnet18"])
def test_show(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "show", name) == 0
    assert name in capsys.readouterr().out
    assert call(monkeypatch, "show", name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == name


def test_every_verb_takes_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (
        ["run", "shapes"],
        ["validate", "shapes"],
        ["train", "shapes-resnet"],
        ["show", "cam"],
        ["list", "methods"],
        ["data", "check", "shapes"],
        ["explain", "a.png", "--model", "m", "--method", "cam"],
    ):
        assert call(monkeypatch, *verb, "--plugin", tmp_path / "no.py") == 2
        assert "no.py': no such file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [[], ["explain"]])
def test_help_keeps_the_names_of_extras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    """A help text is markup, which would take [figures] for a style."""
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, *verb, "--help") == 0
    printed = capsys.readouterr().out
    assert 'pip install "xaibench[figures]"' in printed
    assert "SUITE...}..." not in printed


def test_python_m_xaibench() -> None:
    done = subprocess.run([sys.executable, "-m", "xaibench", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == xaibench.__version__


def test_help_imports_nothing_heavy() -> None:
    """`xaibench --help` is quick because it imports no large package."""
    code = (
        "import sys; sys.argv = ['xaibench', '--help']\n"
        "from xaibench.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'numpy', 'pandas', 'pyarrow', 'pydantic', 'scipy', 'PIL', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in printed
    assert "leaderboard" in printed
