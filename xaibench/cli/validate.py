"""`xaibench validate`: check suites, from their text to their models and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xaibench.cli.console import out, print_json
from xaibench.core.errors import IncompatibleError, MissingError, UsageError, XaibenchError
from xaibench.models.model_cache import ModelCache
from xaibench.runner.benchmark import Benchmark, benchmark_of
from xaibench.runner.cells import model_cells
from xaibench.runner.settings import Settings
from xaibench.suite import Suite, find_suite, load_suite

UNTRAINED_IS_SLOW = "; it detects about half of all labels, so explain: detected is slow (give explain: present)"
Report = dict[str, Any]  # suite, problems, notes, exit_code


def validate(names: Sequence[str], *, data_root: Path | None, overrides: Sequence[str], as_json: bool) -> int:
    """Check suites and print a report of each.

    Returns:
        The highest exit code: 2 for mistakes in a file, 1 for methods and models that do not go together or data that
        is missing, 0 otherwise
    """
    cache = ModelCache()
    reports = [check_suite(name, data_root, overrides, cache) for name in names]
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _print(report)
    return max(int(report["exit_code"]) for report in reports)


def check_suite(name: str, data_root: Path | None, overrides: Sequence[str], cache: ModelCache) -> Report:
    """Report of one suite: its text, then the data on disk, then every model with its methods."""
    report: Report = {"suite": name, "problems": [], "notes": [], "exit_code": 0}
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
    _check_models(suite, benchmark, path, report)
    return report | {"exit_code": 1 if report["problems"] else 0}


def _check_models(suite: Suite, benchmark: Benchmark, path: Path, report: Report) -> None:
    """Add to a report what is wrong with the models, and the methods that go with none of them."""
    compatible: set[str] = set()
    for source in benchmark.models:
        try:
            model = model_cells(source, benchmark)
        except (IncompatibleError, MissingError, UsageError) as error:
            report["problems"].append(str(error.at(str(path))))
            continue
        compatible |= {method.label for method in model.methods}
        report["notes"] += model.skipped
        if not model.classifier.trained:
            report["notes"].append(
                f"{source.label}: no checkpoint, so it runs untrained, and its scores mean nothing"
                + UNTRAINED_IS_SLOW * (suite.explain == "detected")
            )
    if not report["problems"]:
        unused = [method.label for method in suite.methods if method.label not in compatible]
        report["problems"] += [
            f"{suite.place('methods', label)}: method {label!r} goes with no model of the suite" for label in unused
        ]


def _print(report: Report) -> None:
    for problem in report["problems"]:
        out().print(problem, markup=False, soft_wrap=True)
    for message in report["notes"]:
        out().print(f"note: {message}", markup=False, soft_wrap=True)
    if not report["problems"]:
        out().print(f"{report['suite']}: ok", markup=False)
