"""Suites: everything that is wrong is said at once, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaibench.core.errors import UsageError
from xaibench.core.yaml.document import ProblemsError
from xaibench.suite import Suite, find_suite, load_suite, parse_metrics, read_suite, select, shipped_suites

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
        (("name: demo", "name: ../demo"), 1, "letters, digits, '.', '_' and '-' are allowed, a letter or digit first"),
        (("name: demo", "name: [demo"), 1, "not YAML"),
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
    assert found == ["10:8: the tag !!python/object/apply:os.system is not allowed; write a plain value without a tag"]


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
    assert chosen.models == {"shapes-resnet"}
    assert chosen.methods == {"grad_cam@layer3"}
    assert chosen.metrics == {"average_drop", "average_drop_of_others"}
    with pytest.raises(UsageError, match="--method 'x\\*' chooses nothing"):
        select(suite, methods="x*")


def test_a_suite_names_its_own_quick_part(tmp_path: Path) -> None:
    text = GOOD + "leaderboard: {reference: cam}\nquick: {methods: ['grad*'], metrics: [average_drop]}\n"
    suite = load_suite(write(tmp_path, text))
    part = select(suite, quick=True)
    assert part.methods == {"grad_cam@layer3"}
    assert part.metrics == {"average_drop"}
    assert select(suite, quick=True, methods=["*layer3", "grad_cam*"]).methods == {"grad_cam@layer3"}
    with pytest.raises(UsageError, match="--method 'cam' chooses nothing of the quick part of suite demo"):
        select(suite, quick=True, methods="cam")
    with pytest.raises(UsageError, match="names no quick part"):
        select(load_suite(write(tmp_path, GOOD)), quick=True)
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
    labels = [
        m.label for m in parse_metrics(["multi_label", {"name": "average_drop", "average": "mean", "as": "plain"}])
    ]
    assert len(labels) == 8
    assert labels[-1] == "plain"
    for entry, sentence in (("average_drp", "did you mean"), ({"nam": "cam"}, "mapping with `name`")):
        with pytest.raises(UsageError, match=sentence):
            parse_metrics([entry])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="two metrics are called"):
        parse_metrics(["average_drop", "multi_label"])
    with pytest.raises(UsageError, match="as: at least one letter or digit is needed"):
        parse_metrics([{"name": "average_drop", "as": " "}])
    with pytest.raises(UsageError, match=r"parameter 'removal\.blur_sigma' = inf: a finite number is needed"):
        parse_metrics([{"name": "deletion", "removal": {"blur_sigma": float("inf")}}])
    with pytest.raises(UsageError, match="unknown metric 'cam': that is a method"):
        parse_metrics(["cam"])


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
        (
            "in_chans: 4, extra_channels: repeat",
            "3:59: extra_channels: 'repeat' is not allowed; allowed: 'copy_first', ",
        ),
        ("in_chans: 0", "3:40: in_chans: at least 1 is needed; found 0"),
    ],
)
def test_channels_that_cannot_be(tmp_path: Path, model: str, sentence: str) -> None:
    (problem,) = problems(tmp_path, GOOD.replace("[shapes-resnet]", f"[{{name: test_resnet, {model}}}]"))
    assert problem.startswith(sentence)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_file_is_no_suite(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == ["1:1: the file is empty; a mapping of keys to values is needed"]


def test_every_problem_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    """A malformed entry hides no other problem, neither of its neighbours nor of itself."""
    found = problems(
        tmp_path,
        """\
name: a b
titel: x
dataset: {name: shape}
models: [{name: shapes-resnext, chekpoint: 3}]
methods: [3, {nam: cam}, {name: GradCAM, layr: 3}, {name: grad_cam, layr: 3, as: no}]
metrics: [f1plus, {name: average_drop, space: pixel, explain: detectd}]
seed: a
leaderboard: {reference: 3, rnk: 4}
""",
    )
    assert found == [
        "1:7: name: letters, digits, '.', '_' and '-' are allowed, a letter or digit first; found 'a b'",
        "2:1: unknown key 'titel'; did you mean 'title'?; allowed: dataset, description, explain, leaderboard, "
        "max_bad_samples, methods, metrics, models, name, precision, quick, seed, source, threshold, title",
        "3:17: unknown dataset 'shape'; did you mean 'shapes'?",
        "4:17: unknown model 'shapes-resnext'; did you mean 'shapes-resnet'?; see `xaibench list models`",
        "4:33: unknown key 'chekpoint'; did you mean 'checkpoint'?; allowed: activation, as, checkpoint, extra_channels, "
        "in_chans, input, layer, methods, name, num_classes, options, pretrained",
        "5:11: methods, entry 1: a name, or a mapping with `name`, is needed; found 3",
        "5:14: the key 'name' is missing",
        "5:33: unknown method 'GradCAM'; did you mean 'grad_cam'?",
        "5:69: grad_cam has no parameter 'layr'; did you mean 'layer'?",
        "5:82: as: text is needed; found no, which YAML reads as False; put it in quotes: 'no'",
        "6:11: unknown metric 'f1plus'; did you mean 'f1_plus'?",
        "6:47: average_drop: parameter 'space' = 'pixel': allowed: 'model' or 'pixels'",
        "6:63: explain: 'detectd' is not allowed; allowed: 'detected', 'present', 'predicted' or 'target'",
        "7:7: seed: a whole number is needed; found 'a'",
        "8:26: reference: text is needed; found 3; put it in quotes: '3'",
        "8:29: unknown key 'rnk'; did you mean 'rank_by'?; allowed: rank_by, reference",
    ]


def test_what_is_chosen_from_a_section_that_is_missing_is_not_reported_too(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace(f"methods:\n{METHODS}", "") + "quick: {methods: [cam]}\n")
    assert found == ["1:1: the key 'methods' is missing"]


def test_a_report_ends_somewhere(tmp_path: Path) -> None:
    models = "\n".join(f"  - no_such_model_{i}" for i in range(500))
    found = problems(tmp_path, GOOD.replace("models: [shapes-resnet]", f"models:\n{models}"))
    assert len(found) == 51
    assert found[-1].endswith("there are more problems; mend these first")


def test_words_elsewhere_in_a_file_do_not_move_a_problem(tmp_path: Path) -> None:
    """`int` is a part of pydantic's location and of the word pointing_game."""
    model = "[{name: test_resnet, input: {size: §big}}]"
    for metric in ("pointing_game", "sparseness"):
        text = GOOD.replace("[shapes-resnet]", model).replace("  - multi_label\n", f"  - {metric}\n")
        assert the_problem(tmp_path, text) == "size: a whole number or a list is needed; found 'big'"


METHODS = "  - cam\n  - {name: grad_cam, layer: layer3, as: grad_cam@layer3}\n"


def the_problem(tmp_path: Path, text: str) -> str:
    """The one problem of a text, at the place that is marked with §."""
    before, found = text.partition("§")[0], problems(tmp_path, text.replace("§", ""))
    place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    assert [line for line in found if line.startswith(place)] == found
    assert len(found) == 1
    return found[0].removeprefix(place)


@pytest.mark.parametrize(
    ("methods", "problem"),
    [
        (" §GradCAM", "unknown method 'GradCAM'; did you mean 'grad_cam'?"),
        (" [§sparseness]", "unknown method 'sparseness': that is a metric"),
        (" [§multi_label]", "unknown method 'multi_label': that is a group of metrics"),
        (" §[]", "methods: at least 1 item is needed; found []"),
        ("§", "methods: at least 1 item is needed; found None"),
        (" §3", "methods: a name, or a mapping with `name`, is needed; found 3"),
        (" [§[cam]]", "methods, entry 1: a name, or a mapping with `name`, is needed; found ['cam']"),
        (" [{name: cam, §1: 2}]", "the key 1 is not text; put it in quotes"),
        (" [{name: cam, as: §1}]", "as: text is needed; found 1; put it in quotes: '1'"),
        (" [{name: cam, as: §no}]", "as: text is needed; found no, which YAML reads as False; put it in quotes: 'no'"),
        (" [{name: cam, as: §''}]", "as: at least one letter or digit is needed; found ''"),
        (" [{name: cam, as: §' '}]", "as: at least one letter or digit is needed; found ' '"),
        (" [{name: cam, as: §'..'}]", "as: at least one letter or digit is needed; found '..'"),
        (" [{name: cam, as: §' a'}]", "as: one line without blanks around it is needed; found ' a'"),
        (' [{name: cam, as: §"a\\nb"}]', "as: one line without blanks around it is needed; found 'a\\nb'"),
        (' [{name: cam, as: §"a\\0b"}]', "the character '\\x00' cannot stand in a text; remove it"),
        (f" [{{name: cam, as: §{'b' * 101}}}]", "as: at most 100 characters are allowed; found 'bbb"),
        (
            " [{name: integrated_gradients, steps: §0}]",
            "integrated_gradients: parameter 'steps' = 0: at least 1 is needed",
        ),
        (
            " [{name: integrated_gradients, steps: §yes}]",
            "integrated_gradients: parameter 'steps' = True: a whole number is needed",
        ),
        (" [{name: integrated_gradients, baseline: §.inf}]", "a finite number is needed; found .inf"),
        (
            " [{name: integrated_gradients, §setps: 3}]",
            "integrated_gradients has no parameter 'setps'; did you mean 'steps'?",
        ),
        (" [{name: var_grad, samples: §1}]", "var_grad: parameter 'samples' = 1: at least 2 is needed"),
        (" [{name: rise, masks: §0}]", "rise: parameter 'masks' = 0: at least 1 is needed"),
        (
            " [{name: rise, masks: §4, samples: 3}]",
            "rise: parameter 'masks' is the old name of 'samples', which is given too; remove it",
        ),
        (" [{name: rise, probability: §1.5}]", "rise: parameter 'probability' = 1.5: at most 1 is allowed"),
        (" [{name: tta, scales: §[1, 0]}]", "tta: parameter 'scales' = [1, 0]: more than 0 is needed"),
    ],
)
def test_mistakes_in_methods(tmp_path: Path, methods: str, problem: str) -> None:
    assert the_problem(tmp_path, GOOD.replace(f"\n{METHODS}", f"{methods}\n")).startswith(problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("samples: 4", "samples: §-4"), "shapes: parameter 'samples' = -4: at least 1 is needed"),
        (("samples: 4", "samples: §0"), "shapes: parameter 'samples' = 0: at least 1 is needed"),
        (
            ("samples: 4", "samples: §1000000000000"),
            "shapes: parameter 'samples' = 1000000000000: at most 1000000 is allowed",
        ),
        (("samples: 4", "seed: §-1"), "shapes: parameter 'seed' = -1: at least 0 is needed"),
        (("name: demo", "name: demo\nseed: §-3"), "seed: at least 0 is needed; found -3"),
        (("name: demo", "name: demo\nthreshold: §1.5"), "threshold: at most 1 is allowed; found 1.5"),
        (("name: demo", f"name: §{'a' * 101}"), "name: at most 100 characters are allowed; found 'aaa"),
        (("[shapes-resnet]", "[{name: test_resnet, input: {size: §0}}]"), "size: at least 1 is needed; found 0"),
        (
            ("[shapes-resnet]", "[{name: test_resnet, input: {size: §[64]}}]"),
            "size: more entries are needed; found [64]",
        ),
        (
            ("[shapes-resnet]", "[{name: test_resnet, input: {size: §100000}}]"),
            "size: at most 8192 is allowed; found 100000",
        ),
        (
            ("[shapes-resnet]", "[{name: test_resnet, input: {std: [1, §0, 1]}}]"),
            "std, entry 2: more than 0 is needed; found 0",
        ),
        (("[shapes-resnet]", "[{name: §hf-hub:a/b}]"), "unknown model 'hf-hub:a/b'; allowed: 1,"),
        (("as: black", "as: black, §name: cam"), "duplicate key 'name'; it already stands in line 9"),
        (("- multi_label", "- §cam"), "unknown metric 'cam': that is a method"),
        (
            ("- multi_label", "- {name: mprt, layers: §0}"),
            "mprt: parameter 'layers' = 0: at least 1 is needed",
        ),
        (
            ("name: demo", "name: demo\nleaderboard: {reference: §minmax_cam}"),
            "method 'minmax_cam' is not among the methods of this suite, which are: cam, grad_cam@layer3",
        ),
        (
            ("name: demo", "name: demo\nleaderboard: {reference: §'c*'}"),
            "unknown method 'c*'; allowed: cam, grad_cam@layer3",
        ),
        (
            ("name: demo", "name: demo\nquick: {models: [§shapes-vit]}"),
            "model 'shapes-vit' is not among the models of this suite, which are: shapes-resnet",
        ),
        (
            ("name: demo", "name: demo\nquick: {metrics: §sparseness}"),
            "metric 'sparseness' is not among the metrics of this suite, which are: average_drop, ",
        ),
    ],
)
def test_mistakes_elsewhere(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    assert the_problem(tmp_path, GOOD.replace(*change)).startswith(problem)


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [
        ("folder", "; give the data set masks: FOLDER"),
        ("{name: voc12, masks: false}", "; give the data set masks: true"),
        ("planet", ""),
    ],
)
def test_masks_that_are_not_there(tmp_path: Path, dataset: str, remedy: str) -> None:
    (found,) = problems(tmp_path, GOOD.replace("{name: shapes, samples: 4}", dataset).replace("- cam", "- oracle"))
    assert found.startswith("5:5: method 'oracle' needs masks, which data set")
    assert found.endswith(f"does not have{remedy}")


def test_an_entry_that_stands_alone_is_a_list_of_one(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, """\
name: demo
dataset: shapes
models: shapes-resnet
methods: {name: grad_cam, layer: layer3}
metrics: sparseness
leaderboard: {rank_by: sparseness}
quick: {methods: 'grad*'}
"""))  # fmt: skip
    assert [m.label for m in suite.models] == ["shapes-resnet"]
    assert [m.parameters for m in suite.methods] == [{"layer": "layer3"}]
    assert [m.label for m in suite.metrics] == suite.leaderboard.rank_by == ["sparseness"]
    assert select(suite, quick=True).methods == {"grad_cam"}


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("threshold=abc", "threshold: a number is needed; found 'abc'"),
        ("threshold=.nan", "a finite number is needed; found .nan"),
        ("seed=-3", "seed: at least 0 is needed; found -3"),
        ("seed=[1", "not YAML: the list that opens here is not closed"),
        ("datset.samples=4", "unknown key 'datset'; did you mean 'dataset'?"),
        ("dataset.sampels=4", "shapes has no parameter 'sampels'; did you mean 'samples'?"),
        ("models.3.activation=softmax", "models has 1 entry, numbered from 0; there is no 3"),
        ("models.0.activation=softmax", "models.0 is a single value ('shapes-resnet'), which has no 'activation'"),
        ("methods.1.as=no", "as: text is needed; found False"),
        ("title=\udcff", "not YAML: the character '\\udcff' cannot stand in a text file"),
        ("methods=[GradCAM]", "unknown method 'GradCAM'; did you mean 'grad_cam'?"),
    ],
)
def test_what_the_command_line_sets_is_blamed_on_it(tmp_path: Path, assignment: str, problem: str) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(UsageError) as error:
        load_suite(path, [assignment])
    (found,) = str(error.value).splitlines()
    assert found.startswith(f"--set {assignment.encode(errors='backslashreplace').decode()}: {problem}")


def test_what_the_command_line_mends_is_mended(tmp_path: Path) -> None:
    path = write(
        tmp_path, GOOD.replace("samples: 4", "samples: many").replace("  - cam\n", "  - {name: cam, as: no}\n")
    )
    suite = load_suite(path, ["dataset.samples=3", "methods.0.as='no'"])
    assert suite.dataset.options == {"samples": 3}
    assert suite.methods[0].label == "no"


def test_an_entry_has_a_place(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "quick: {methods: ['grad*']}\n")
    suite = load_suite(path, ["seed=3"])
    assert suite.place("methods", "grad_cam@layer3") == f"{path}:6:5"
    assert suite.place("methods", "grad_cam@layer3", "layer") == f"{path}:6:29"
    assert suite.place("methods", "cam", "layer") == f"{path}:5:5"
    assert suite.place("seed") == "--set seed=3"
    assert Suite.model_validate(suite.model_dump(by_alias=True)).place("methods", "cam") == ""


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"this is a folder; give the path of a \.yaml file, or a shipped suite: "):
        find_suite(str(tmp_path))
    with pytest.raises(UsageError, match=r"did you mean 'shapes-full'\?; or give the path of a .yaml file"):
        find_suite("ShapesFull")
    path = tmp_path / "latin.yaml"
    path.write_bytes(GOOD.encode() + b"title: caf\xe9\n")
    with pytest.raises(ProblemsError, match=r"latin.yaml:10:11: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        load_suite(path)


def test_titles_are_read_without_looking_anything_up(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("shapes-resnet", "no_such_model") + "title: Demo\n")
    assert read_suite(path).title == "Demo"
    with pytest.raises(ProblemsError, match="unknown model"):
        load_suite(path)


def test_old_names_of_parameters_are_accepted_with_a_note(tmp_path: Path) -> None:
    old = GOOD.replace("  - cam\n", "  - {name: rise, masks: 7}\n  - {name: tta, method: cam}\n")
    suite = load_suite(write(tmp_path, old))
    assert [m.parameters[key] for m, key in zip(suite.bound_methods(), ("samples", "base"), strict=False)] == [7, "cam"]
    assert [note.split(";")[0] for note in suite.notes] == [
        "rise: parameter 'masks' is now called 'samples'",
        "tta: parameter 'method' is now called 'base'",
    ]
    assert load_suite(write(tmp_path, GOOD)).notes == []
