"""Suites: everything that is wrong is said at once, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaibench.errors import UsageError
from xaibench.suite import find_suite, load_suite, parse_metrics, quick, select, shipped_suites
from xaibench.yamlfile import ProblemsError

GOOD = """\
name: demo
dataset: {name: shapes, samples: 4}
models: [shapes-resnet]
methods:
  - cam
  - {name: grad_cam, layer: layer3, as: grad_cam@layer3}
metrics:
  - multi_label
  - {name: average_drop, space: pixels, as: black}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(ProblemsError) as error:
        load_suite(path)
    return [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()]


def test_a_good_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    assert [m.label for m in suite.bound_methods()] == ["cam", "grad_cam@layer3"]
    assert suite.bound_methods()[1].parameters == {"layer": "layer3"}
    metrics = {m.label: m for m in suite.bound_metrics()}
    assert len(metrics) == 8
    assert metrics["black"].parameters["space"] == "pixels"
    assert metrics["average_drop"].parameters["space"] == "model"
    assert suite.explain == "detected"


def test_five_mistakes_give_five_lines(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
name: bad
titel: an unknown key
dataset: {name: folder_without_masks}
models: [shapes-resnet]
methods:
  - grad_kam
  - {name: grad_cam, layr: layer3}
seed: 1
seed: 2
metrics: [pointing_gam]
""",
    )
    assert [line.split(":")[0] for line in found] == ["2", "3", "6", "7", "9", "10"]
    assert "unknown key 'titel'; did you mean 'title'" in found[0]
    assert "unknown dataset 'folder_without_masks'" in found[1]
    assert "unknown method 'grad_kam'; did you mean 'grad_cam'?" in found[2]
    assert "grad_cam has no parameter 'layr'; did you mean 'layer'?" in found[3]
    assert "duplicate key 'seed'; it already stands in line 8" in found[4]
    assert "did you mean 'pointing_game'?" in found[5]


@pytest.mark.parametrize(
    ("change", "line", "sentence"),
    [
        (("models: [shapes-resnet]", "models: [shapes-resnext]"), 3, "did you mean 'shapes-resnet'"),
        (("models: [shapes-resnet]", "models: []"), 3, "at least 1 item"),
        (("name: demo\n", ""), 1, "the key 'name' is missing"),
        (("samples: 4", "samples: many"), 2, "shapes: parameter 'samples' = 'many'"),
        (("samples: 4", "sample: 4"), 2, "did you mean 'samples'"),
        (("name: demo", "name: demo\nexplain: detectd"), 2, "'detectd' is not allowed"),
        (("name: demo", "name: demo\nexplain: target"), 2, "shapes is multi-label"),
        (("space: pixels", "space: pixel"), 9, "average_drop: parameter 'space' = 'pixel'"),
        (("as: black", "as: f1_plus"), 9, "two metrics are called 'f1_plus'"),
        (("  - cam\n", "  - cam\n  - cam\n"), 6, "two methods are called 'cam'"),
        (("name: demo", "name: demo\nleaderboard: {rank_by: [f1plus]}"), 2, "did you mean 'f1_plus'"),
        (("name: demo", "name: demo\nleaderboard: {reference: kam}"), 2, "did you mean 'cam'"),
        (("name: demo", "name: ../demo"), 1, "should match pattern"),
        (("name: demo", "name: [demo"), 2, "not YAML"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, change: tuple[str, str], line: int, sentence: str) -> None:
    found = problems(tmp_path, GOOD.replace(*change))
    assert len(found) == 1, found
    assert found[0].startswith(f"{line}:")
    assert sentence in found[0]


def test_not_a_mapping(tmp_path: Path) -> None:
    assert problems(tmp_path, "- cam\n") == ["1:1: a mapping of keys to values is needed"]


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD + "title: !!python/object/apply:os.system ['true']\n")
    assert "could not determine a constructor" in found[0]


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    suite = load_suite(path, ["dataset.samples=9", "explain=present", "methods.1.layer=layer2", "seed=3"])
    assert suite.dataset.options["samples"] == 9
    assert suite.explain == "present"
    assert suite.bound_methods()[1].parameters["layer"] == "layer2"
    for assignment, sentence in (
        ("explain", "key=value"),
        ("methods.7=cam", "2 entries"),
        ("name.first=x", "single value"),
    ):
        with pytest.raises(UsageError, match=sentence):
            load_suite(path, [assignment])
    with pytest.raises(ProblemsError, match="unknown key 'titel'"):
        load_suite(path, ["titel=x"])


def test_select(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD + "leaderboard: {reference: cam, rank_by: [f1_plus]}\n"))
    chosen = select(suite, methods="grad*", metrics="average_drop*")
    assert [m.label for m in chosen.methods] == ["grad_cam@layer3"]
    assert [m.label for m in chosen.bound_metrics()] == ["average_drop", "average_drop_of_others"]
    assert chosen.leaderboard.reference is None
    with pytest.raises(UsageError, match="--method 'x\\*' chooses nothing"):
        select(suite, methods="x*")


def test_a_suite_names_its_own_quick_part(tmp_path: Path) -> None:
    text = GOOD + "leaderboard: {reference: cam}\nquick: {methods: ['grad*'], metrics: [average_drop]}\n"
    part = quick(load_suite(write(tmp_path, text)))
    assert [m.label for m in part.methods] == ["grad_cam@layer3"]
    assert [m.label for m in part.bound_metrics()] == ["average_drop"]
    with pytest.raises(UsageError, match="names no quick part"):
        quick(load_suite(write(tmp_path, GOOD)))
    found = problems(tmp_path, GOOD + "quick: {methods: [cm], models: [x], metrics: [average_drp]}\n")
    assert len(found) == 3
    assert "unknown method 'cm'; did you mean 'cam'?" in found[0]


def test_a_model_may_have_only_some_of_the_methods(tmp_path: Path) -> None:
    models = "models: [shapes-vit, {name: shapes-resnet, methods: ['grad*']}]"
    suite = load_suite(write(tmp_path, GOOD.replace("models: [shapes-resnet]", models)))
    assert [[m.label for m in suite.bound_methods(model)] for model in suite.models] == [
        ["cam", "grad_cam@layer3"],
        ["grad_cam@layer3"],
    ]
    found = problems(tmp_path, GOOD.replace("models: [shapes-resnet]", models.replace("grad*", "gard_cam@layer3")))
    assert found == ["3:54: unknown method 'gard_cam@layer3'; did you mean 'grad_cam@layer3'?"]


def test_find_suite() -> None:
    assert find_suite("shapes").name == "shapes.yaml"
    with pytest.raises(UsageError, match="did you mean 'shapes'"):
        find_suite("shape")
    with pytest.raises(UsageError, match="no such file"):
        find_suite("no/such.yaml")


@pytest.mark.parametrize("name", list(shipped_suites()))
def test_every_shipped_suite_is_valid(name: str) -> None:
    assert load_suite(shipped_suites()[name]).name == name


def test_metrics_of_the_api() -> None:
    labels = [m.label for m in parse_metrics(["multi_label", {"name": "average_drop", "average": "mean", "as": "plain"}])]
    assert len(labels) == 8
    assert labels[-1] == "plain"
    for entry, sentence in (("average_drp", "did you mean"), ({"nam": "cam"}, "mapping with `name`")):
        with pytest.raises(UsageError, match=sentence):
            parse_metrics([entry])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="two metrics are called"):
        parse_metrics(["average_drop", "multi_label"])


def test_channels_and_interpolation_of_a_model(tmp_path: Path) -> None:
    model = "[{name: test_resnet, in_chans: 4, extra_channels: mean, input: {interpolation: nearest}}]"
    (section,) = load_suite(write(tmp_path, GOOD.replace("[shapes-resnet]", model))).models
    assert (section.in_chans, section.extra_channels, section.input.interpolation) == (4, "mean", "nearest")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("extra_channels: mean", "3:30: extra_channels makes other than 3 channels; give in_chans"),
        ("in_chans: 3, extra_channels: mean", "3:43: extra_channels makes other than 3 channels; give in_chans"),
        ("options: {in_chans: 4}", "3:40: in_chans stands beside the model's name, not among its options"),
        ("in_chans: 4, extra_channels: repeat", "3:59: extra_channels: 'repeat' is not allowed; allowed: 'copy_first', "),
        ("in_chans: 0", "3:40: in_chans: input should be greater than or equal to 1; found 0"),
    ],
)
def test_channels_that_cannot_be(tmp_path: Path, model: str, sentence: str) -> None:
    (problem,) = problems(tmp_path, GOOD.replace("[shapes-resnet]", f"[{{name: test_resnet, {model}}}]"))
    assert problem.startswith(sentence)


def test_old_names_of_parameters_are_accepted_with_a_note(tmp_path: Path) -> None:
    old = GOOD.replace("  - cam\n", "  - {name: rise, masks: 7}\n  - {name: tta, method: cam}\n")
    suite = load_suite(write(tmp_path, old))
    assert [m.parameters[key] for m, key in zip(suite.bound_methods(), ("samples", "base"), strict=False)] == [7, "cam"]
    assert [note.split(";")[0] for note in suite.notes] == [
        "rise: parameter 'masks' is now called 'samples'", "tta: parameter 'method' is now called 'base'",
    ]  # fmt: skip
    assert load_suite(write(tmp_path, GOOD)).notes == []
