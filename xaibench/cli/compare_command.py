"""The verb `compare` with its options; the work is in `xaibench.cli.compare`."""

from __future__ import annotations

import typer

from xaibench.cli import options


def compare(
    runs: options.ComparedRuns,
    methods: options.TwoMethods = None,
    method: options.OnlyMethods = None,
    metric: options.OnlyMetrics = None,
    model: options.OnlyModels = None,
    alpha: options.Alpha = 0.05,
    min_effect: options.MinEffect = None,
    exact: options.Exact = None,
    fail_on: options.FailOn = None,
    controls: options.Controls = False,
    allow_missing: options.AllowMissing = False,
    everything: options.Everything = False,
    md: options.MarkdownFile = None,
    junit: options.JunitFile = None,
    json: options.Json = False,
    plugin: options.Plugin = None,
) -> None:
    """Is NEW worse than BASE? Tests paired differences of two runs; exit 1 where a cell fails. Or two methods of one run."""
    from xaibench.cli import compare
    from xaibench.results.gate import Rules

    options.load_plugins(plugin)
    patterns = {
        kind: options.patterns_of(f"--{kind}", globs)
        for kind, globs in (("method", method), ("metric", metric), ("model", model))
    }
    rules = Rules(
        alpha=alpha,
        minimum_effect=min_effect,
        exact=exact,
        fail_on=fail_on or ("none" if methods else "worse"),
        controls=controls,
        allow_missing=allow_missing,
    )
    reports = compare.Reports(markdown=md, junit=junit, json=json, everything=everything or methods is not None)
    raise typer.Exit(compare.compare(runs, methods, patterns, rules, reports))
