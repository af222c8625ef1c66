"""What the verbs of the command line do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from xaibench import bundled
from xaibench.display import Bars, ProgressMode, err, out
from xaibench.errors import MissingError, UsageError, XaibenchError
from xaibench.suite import Suite, find_suite, load_suite, select
from xaibench.suite import quick as quick_part

BYTES_PER_ROW = 12  # of a Parquet cell, measured
UNTRAINED_IS_SLOW = "; it detects about half of all labels, so explain: detected is slow (give explain: present)"
PAIRS_PER_IMAGE = 2.5  # a guess for the plan; the number of detected labels is known only when it is run


# -- run ----------------------------------------------------------------------------------------------------------


def pick_device(name: str) -> str:
    """`auto` is CUDA where there is one. Raises UsageError for a device that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not available here: {str(error).splitlines()[0]}") from error
    return name


def run(
    name: str, *, out: Path | None, overrides: Sequence[str], quick: bool, globs: Mapping[str, str],
    data_root: Path | None, device: str, batch_size: str, workers: str, limit: int | None, fail_fast: bool,
    dry_run: bool, progress: ProgressMode,
) -> int:  # fmt: skip
    """Run one suite and print its leaderboard; returns the exit code."""
    from xaibench.leaderboard import plural
    from xaibench.preparing import Settings
    from xaibench.rundir import BAD_SAMPLES, run_suite
    from xaibench.runner import Progress

    path = find_suite(name)
    suite = load_suite(path, overrides)
    suite = select(quick_part(suite) if quick else suite, **globs)
    settings = Settings(
        data_root=data_root,
        suite_folder=path.parent,
        device=device,
        batch_size=_batch_size(batch_size, device),
        workers=worker_number(workers),
        limit=limit,
        fail_fast=fail_fast,
    )
    directory = out or Path("runs") / suite.name
    for note in suite.notes:
        err.print(f"note: {note}", markup=False)
    if dry_run:
        _print_plan(suite, directory, settings)
        return 0
    with Bars(progress).showing() as bars:
        result = run_suite(suite, path.read_text(), directory, settings, Progress(bars.start, bars.advance, bars.note))
    _print_leaderboard(result.leaderboard)
    err.print(f"written to {directory}/ (leaderboard.csv, leaderboard.md, scores.csv)", markup=False)
    for sample_id, sentence in result.outcome.bad.items():
        err.print(f"bad sample {sample_id}: {sentence}", markup=False, style="red")
    if result.outcome.bad:
        count = plural(len(result.outcome.bad), "bad sample")
        err.print(f"left out of every score: {count}, listed in {directory / BAD_SAMPLES}", markup=False)
    for sentence in result.outcome.failed:
        err.print(f"failed: {sentence}", markup=False, style="red")
    return 3 if result.outcome.failed else 0


def _batch_size(text: str, device: str) -> int:
    if text == "auto":
        return 16 if device == "cpu" else 64
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text!r}: a positive number, or auto")
    return int(text)


def worker_number(text: str) -> int | None:
    """None for `auto`: as many as help."""
    if text == "auto":
        return None
    if not text.isdigit():
        raise UsageError(f"--workers {text!r}: a number from 0, or auto")
    return int(text)


def _print_plan(suite: Suite, directory: Path, settings: Any) -> None:
    from xaibench.records import Records
    from xaibench.runner import Runner

    runner = Runner(suite, Records(directory), settings)
    table = Table(title=f"{suite.name}: what would be done", title_justify="left")
    for column in ("model", "methods", "cells", "there already", "samples", "forwards", "backwards", "disk"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for section in suite.models:
        prepared = runner.prepare(section)
        plan = runner.plan(prepared)
        left = plan["cells"] - plan["done"]
        pairs = round(plan["samples"] * PAIRS_PER_IMAGE)
        probes = sum("forward" in metric.entry.cost for metric in runner.metrics) > 0
        forwards = plan["samples"] + (2 * pairs * len(prepared.methods) if probes else 0)
        backward = any("gradients" in need for method in prepared.methods for need in method.entry.needs)
        megabytes = left * pairs * BYTES_PER_ROW / 1e6
        table.add_row(
            section.label, str(len(prepared.methods)), str(plan["cells"]), str(plan["done"]), str(plan["samples"]),
            f"~{forwards if left else 0}", f"~{pairs if left and backward else 0}", f"~{megabytes:.1f} MB",
        )  # fmt: skip
        for sentence in prepared.skipped:
            err.print(f"note: {sentence}", markup=False)
    out().print(table)
    err.print(
        f"(counts marked ~ assume {PAIRS_PER_IMAGE} explained labels per image; passes of perturbation methods, and of "
        "metrics that remove step by step or explain again, come on top: see `xaibench show NAME`)"
    )


def _print_leaderboard(board: Any) -> None:
    console = out()
    for note in board.notes:
        err.print(f"[bold red]note:[/] {escape(note)}")
    for table in board.tables():
        console.print(table)


def leaderboard(runs: Sequence[Path], format: str, output: Path | None, published: str | None = None) -> None:
    """The table of runs, or with `published` that of a paper beside them."""
    from xaibench.published import compare_published
    from xaibench.rundir import read_leaderboard

    board = read_leaderboard(runs) if published is None else compare_published(published, runs)
    if format == "table" and output is None:
        _print_leaderboard(board)
        return
    if format == "table":
        format = "md" if output is not None and output.suffix == ".md" else "csv"
    text = board.csv() if format == "csv" else board.markdown()
    if output is None:
        out().file.write(text)
    else:
        output.write_text(text)


# -- explain ------------------------------------------------------------------------------------------------------


def explain(
    image: Path, output: Path, *, model: str, methods: Sequence[str], labels: Sequence[str], all_layers: bool,
    options: Mapping[str, Any], device: str,
) -> None:  # fmt: skip
    """Draw maps of one image, or with `all_layers` print and plot what those of vgatt leave unexplained."""
    from xaibench import explain_image as explaining
    from xaibench.classifier_loading import load_classifier

    if all_layers and list(methods) != ["vgatt"]:
        raise UsageError(f"--layers all goes with --method vgatt, found --method {','.join(methods)}")
    explaining.check_output(output)
    classifier = load_classifier(model, **options, device=device)
    title = f"{image.name}, {model}" + ("" if classifier.trained else ", untrained")
    if all_layers:
        shares, notes = explaining.vgatt_by_depth(image, classifier, labels)
        figure = explaining.draw_shares(shares, f"Share of the bias term in the logit: {title}")
        out().print(_share_table(shares))
    else:
        explained = explaining.explain_image(image, classifier, methods, labels)
        notes = explained.notes
        figure = explaining.draw_grid(explained, title)
    if not classifier.trained:
        notes = [*notes, f"{model} has no checkpoint, so its weights are random and its maps mean nothing"]
    for note in notes:
        err.print(f"note: {note}", markup=False)
    explaining.save(figure, output)
    err.print(f"written to {output}", markup=False)


def _share_table(shares: Sequence[Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("depth", "layer", "label", "|bias|", "|score|", "ratio"):
        table.add_column(column, justify="left" if column in ("layer", "label") else "right")
    for s in shares:
        table.add_row(
            str(s.depth), escape(s.layer), escape(s.label), f"{abs(s.bias):.4g}", f"{abs(s.score):.4g}", f"{s.ratio:.4g}"
        )
    return table


# -- validate and train -------------------------------------------------------------------------------------------


def validate(names: Sequence[str], *, data_root: Path | None, overrides: Sequence[str], as_json: bool) -> int:
    """Exit code 2 for mistakes in a file, 1 for what does not go together or is not there, 0 for all well."""
    reports = [_validate(name, data_root, overrides) for name in names]
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


def _validate(name: str, data_root: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    from xaibench.datasets import load_dataset
    from xaibench.errors import IncompatibleError
    from xaibench.preparing import Settings
    from xaibench.records import Records
    from xaibench.runner import Runner

    report: dict[str, Any] = {"suite": name, "problems": [], "notes": [], "exit_code": 0}
    try:
        path = find_suite(name)
        suite = load_suite(path, overrides)
    except XaibenchError as error:
        return report | {"problems": str(error).splitlines(), "exit_code": 2}
    report["notes"] += suite.notes
    settings = Settings(data_root=data_root, suite_folder=path.parent)
    try:
        load_dataset(suite.dataset.name, data_root=data_root, split=suite.dataset.split, **suite.dataset.options)
        runner = Runner(suite, Records(Path()), settings)
    except XaibenchError as error:
        return report | {"problems": [f"{path}: {error}"], "exit_code": 1}
    fitting: set[str] = set()
    for section in suite.models:
        try:
            prepared = runner.prepare(section)
        except (IncompatibleError, MissingError, UsageError) as error:
            report["problems"].append(str(error.at(str(path))))
            continue
        fitting |= {method.label for method in prepared.methods}
        report["notes"] += prepared.skipped
        if not prepared.classifier.trained:
            report["notes"].append(
                f"{section.label}: no checkpoint, so it runs untrained, and its scores mean nothing"
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
    from xaibench.training import Epoch, read_recipe
    from xaibench.training import train as fit

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
        from xaibench.training.log import draw_curves

        names.append(draw_curves(directory / f"{recipe.name}.log.csv", directory / f"{recipe.name}.curve.png").name)
    except ImportError:
        err.print('note: curves are drawn where seaborn is installed: pip install "xaibench[figures]"', markup=False)
    err.print(f"written to {directory}/: {', '.join(names)}", markup=False)
