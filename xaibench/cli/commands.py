"""What the verbs of the command line do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xaibench.cli.console import WIDE, Bars, ProgressMode, err, out, print_leaderboard
from xaibench.cli.exit_codes import naming
from xaibench.cli.options import check_patterns, check_place
from xaibench.core.errors import MissingError, UsageError, XaibenchError
from xaibench.models import bundled
from xaibench.suite import find_suite, load_suite

if TYPE_CHECKING:
    from xaibench.models.classifier import Classifier
    from xaibench.models.model_cache import ModelCache

TableFormat = Literal["table", "csv", "md"]

# -- leaderboard --------------------------------------------------------------------------------------------------

ENDINGS: Mapping[str, TableFormat] = {".csv": "csv", ".md": "md"}
STDOUT = Path("-")


def leaderboard(
    runs: Sequence[Path],
    format: TableFormat | None,
    output: Path,
    published: str | None = None,
    *,
    intervals: bool = False,
) -> None:
    """The table of runs, or with `published` that of a paper beside them.

    Args:
        format: None: by the ending of `output`, a table on stdout
        output: a file, or "-" for stdout
        intervals: with the interval of every value; of a table on the terminal

    Raises:
        UsageError: an unknown ending
        MissingError: a place that cannot be written
    """
    from xaibench.results.leaderboard import read_leaderboard
    from xaibench.results.published import compare_published

    if output != STDOUT:
        check_place(output)
    form = format or ("table" if output == STDOUT else _format_of(output))
    board = read_leaderboard(runs) if published is None else compare_published(published, runs)
    if output == STDOUT and form == "table":
        print_leaderboard(board, intervals=intervals)
    elif output == STDOUT:
        out().file.write(board.csv() if form == "csv" else board.markdown())
    else:
        with naming(output), output.open("w", encoding="utf-8") as file:
            if form == "table":
                print_leaderboard(board, Console(file=file, width=WIDE), intervals=intervals)
            else:
                file.write(board.csv() if form == "csv" else board.markdown())


def _format_of(output: Path) -> TableFormat:
    if output.suffix not in ENDINGS:
        raise UsageError(
            f"-o {output}: unknown ending {output.suffix!r}; allowed: {', '.join(ENDINGS)}; or choose with --format"
        )
    return ENDINGS[output.suffix]


# -- explain ------------------------------------------------------------------------------------------------------


def explain(
    image: Path,
    output: Path,
    *,
    model: str,
    patterns: Sequence[str],
    labels: Sequence[str],
    all_layers: bool,
    options: Mapping[str, Any],
    device: str,
) -> None:
    """Draw maps of one image, or with `all_layers` print and plot what those of vgatt leave unexplained."""
    from xaibench.cli import explain_image as explaining
    from xaibench.cli import figures
    from xaibench.models.factory import load_classifier

    if all_layers and list(patterns) != ["vgatt"]:
        raise UsageError(f"--layers all goes with --method vgatt, found --method {','.join(patterns)}")
    figures.check_output(output)
    classifier = load_classifier(model, **options, device=device)
    title = f"{image.name}, {model}" + ("" if classifier.trained else ", untrained")
    if all_layers:
        shares, notes = explaining.vgatt_by_depth(image, classifier, labels)
        figure = figures.draw_shares(shares, f"Share of the bias term in the logit: {title}")
        out().print(_share_table(shares))
    else:
        methods, notes = _methods_for(classifier, patterns)
        explained = explaining.explain_image(image, classifier, methods, labels)
        notes = [*explained.notes, *notes]
        figure = figures.draw_grid(explained, title)
    if not classifier.trained:
        notes = [*notes, f"{model} has no checkpoint, so its weights are random and its maps mean nothing"]
    for note in notes:
        err.print(f"note: {note}", markup=False)
    with naming(output):
        figures.save(figure, output)
    err.print(f"written to {output}", markup=False)


def _methods_for(classifier: Classifier, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that names and globs choose, and a sentence about those a glob names in vain.

    A method that is named by itself stays, so that what is wrong with it is an error.
    """
    from xaibench.core import registry
    from xaibench.models.capabilities import lacking

    check_patterns("--method", patterns, list(registry.methods), "the methods")
    chosen: dict[str, None] = {}
    left_out: dict[str, None] = {}
    for pattern in patterns:
        for name in registry.methods.names(pattern):
            entry = registry.methods[name]
            fits = "masks" not in entry.needs and lacking(classifier, entry.needs) is None and not entry.problems({})
            (chosen if fits or name == pattern else left_out)[name] = None
    names = [name for name in left_out if name not in chosen]
    notes = [f"left out, for they do not go with {classifier.name} or need more than a picture: {', '.join(names)}"]
    return list(chosen), notes if names else []


def _share_table(shares: Sequence[Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("depth", "layer", "label", "|bias|", "|score|", "ratio"):
        table.add_column(column, justify="left" if column in ("layer", "label") else "right")
    for s in shares:
        table.add_row(
            str(s.depth),
            escape(s.layer),
            escape(s.label),
            f"{abs(s.bias):.4g}",
            f"{abs(s.score):.4g}",
            f"{s.ratio:.4g}",
        )
    return table


# -- validate and train -------------------------------------------------------------------------------------------

UNTRAINED_IS_SLOW = "; it detects about half of all labels, so explain: detected is slow (give explain: present)"


def validate(names: Sequence[str], *, data_root: Path | None, overrides: Sequence[str], as_json: bool) -> int:
    """Exit code 2 for mistakes in a file, 1 for what does not go together or is not there, 0 for all well."""
    from xaibench.models.model_cache import ModelCache

    cache = ModelCache()
    reports = [_validate(name, data_root, overrides, cache) for name in names]
    if as_json:
        out().file.write(json.dumps(reports, indent=2) + "\n")
    else:
        for report in reports:
            for kind in ("problems", "notes"):
                for sentence in report[kind]:
                    out().print(sentence if kind == "problems" else f"note: {sentence}", markup=False, soft_wrap=True)
            if not report["problems"]:
                out().print(f"{report['suite']}: ok", markup=False)
    return max(int(report["exit_code"]) for report in reports)


def _validate(name: str, data_root: Path | None, overrides: Sequence[str], cache: ModelCache) -> dict[str, Any]:
    from xaibench.core.errors import IncompatibleError
    from xaibench.runner.benchmark import benchmark_of
    from xaibench.runner.cells import model_cells
    from xaibench.runner.settings import Settings

    report: dict[str, Any] = {"suite": name, "problems": [], "notes": [], "exit_code": 0}
    try:
        path = find_suite(name)
        suite = load_suite(path, overrides)
    except XaibenchError as error:
        return report | {"problems": str(error).splitlines(), "exit_code": 2}
    report["notes"] += suite.notes
    try:
        benchmark = benchmark_of(suite, Settings(data_root=data_root, suite_folder=path.parent, cache=cache))
    except XaibenchError as error:
        return report | {"problems": [str(error.at(str(path)))], "exit_code": 1}
    fitting: set[str] = set()
    for source in benchmark.models:
        try:
            model = model_cells(source, benchmark)
        except (IncompatibleError, MissingError, UsageError) as error:
            report["problems"].append(str(error.at(str(path))))
            continue
        fitting |= {method.label for method in model.methods}
        report["notes"] += model.skipped
        if not model.classifier.trained:
            report["notes"].append(
                f"{source.label}: no checkpoint, so it runs untrained, and its scores mean nothing"
                + UNTRAINED_IS_SLOW * (suite.explain == "detected")
            )
    if not report["problems"]:
        lonely = [method.label for method in suite.methods if method.label not in fitting]
        report["problems"] += [
            f"{suite.place('methods', label)}: method {label!r} goes with no model of the suite" for label in lonely
        ]
    return report | {"exit_code": 1 if report["problems"] else 0}


def train(
    name: str, directory: Path, *, data_root: Path | None, device: str, workers: int, progress: ProgressMode
) -> None:
    from xaibench.cli import figures
    from xaibench.models.training import Epoch, read_recipe
    from xaibench.models.training import train as fit

    path = Path(name) if name.endswith((".yaml", ".yml")) else bundled.recipe_path(name)
    if not path.is_file():
        raise UsageError(f"recipe {name}: no such file")
    recipe = read_recipe(path)
    with Bars(progress).showing() as bars:
        done: int | None = None

        def on_step(step: int, steps: int) -> None:
            nonlocal done
            if done is None:  # a training that goes on starts its bar where it was cut off
                done = step - 1
                bars.start(recipe.name, (steps - done) * images)
            bars.advance((step - done) * images)
            done = step

        def on_epoch(epoch: Epoch) -> None:
            quality = epoch.quality
            bars.note(
                f"epoch {epoch.number}/{recipe.epochs}: loss {epoch.loss:.4f}, mAP {quality.mean('average_precision'):.4f}, "
                f"F1 {quality.mean('f1'):.4f}, F2 {quality.mean('f2'):.4f}"
            )

        images = recipe.batch_size * recipe.accumulate
        weights = fit(
            recipe, directory, data_root=data_root, device=device, workers=workers, on_epoch=on_epoch, on_step=on_step
        )
    names = [weights.name, f"{recipe.name}.card.json", f"{recipe.name}.log.csv"]
    try:
        curve = directory / f"{recipe.name}.curve.png"
        figures.save(figures.draw_curves(directory / f"{recipe.name}.log.csv"), curve)
        names.append(curve.name)
    except MissingError:
        err.print('note: curves are drawn where matplotlib is installed: pip install "xaibench[figures]"', markup=False)
    err.print(f"written to {directory}/: {', '.join(names)}", markup=False)
