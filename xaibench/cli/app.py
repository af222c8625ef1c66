"""The verbs of the command line and their options. Verbs import heavy modules themselves, so `xaibench --help` is fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from xaibench.cli import options
from xaibench.cli.console_encoding import replace_what_cannot_be_encoded
from xaibench.cli.exit_codes import INTERRUPTED, epilog, report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The benchmark for multi-label explanation: attribution methods, metrics, suites and leaderboards.",
    epilog=epilog(),
)

debugging = False  # the value of --debug


def version(value: bool) -> None:
    """Print the version and exit."""
    if value:
        import xaibench

        typer.echo(xaibench.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global debugging
    debugging = debug


@app.command()
def run(
    suites: options.Suites,
    out: options.RunDirectory = None,
    data_root: options.DataRoot = None,
    method: options.OnlyMethods = None,
    metric: options.OnlyMetrics = None,
    model: options.OnlyModels = None,
    quick: options.Quick = False,
    limit: options.Limit = None,
    overrides: options.Set = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    batch_size: options.BatchSize = "auto",
    workers: options.Workers = "auto",
    max_bad_samples: options.MaxBadSamples = None,
    fail_fast: options.FailFast = False,
    ci: options.Intervals = False,
    dry_run: options.DryRun = False,
    progress: options.Progress = "auto",
    plugin: options.Plugin = None,
) -> None:
    """Evaluate every missing cell of SUITE, write records, print the leaderboard. The same command again goes on."""
    from xaibench.cli import run
    from xaibench.runner.settings import Settings

    _load_plugins(plugin)
    keys = {"seed": seed, "precision": precision, "max_bad_samples": max_bad_samples}
    patterns = {
        kind: options.patterns_of(f"--{kind}", globs)
        for kind, globs in (("method", method), ("metric", metric), ("model", model))
    }
    jobs = run.jobs_of(suites, out, overrides=options.overrides_of(overrides, keys), quick=quick, patterns=patterns)
    device = options.device_of(device)
    settings = Settings(
        data_root=data_root,
        device=device,
        batch_size=options.batch_size_of(batch_size, device),
        workers=options.worker_number(workers),
        limit=limit,
        fail_fast=fail_fast,
    )
    raise typer.Exit(run.run(jobs, settings, dry_run=dry_run, progress=progress, intervals=ci))


@app.command(name="list")
def list_(
    kind: Annotated[
        Literal["methods", "metrics", "models", "datasets", "suites"], typer.Argument(help="What to list.")
    ],
    glob: Annotated[str, typer.Argument(help="Only names that match.")] = "*",
    model: Annotated[
        str | None, typer.Option("--model", help="With `methods`: say which go with this model, and why others do not.")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="With facts.")] = False,
    json: options.Json = False,
    plugin: options.Plugin = None,
) -> None:
    """Methods, metrics, models, datasets or suites."""
    from xaibench.cli import list_show

    _load_plugins(plugin)
    list_show.list_(kind, glob, model=model, long=long, as_json=json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, metric, model, data set or suite.")],
    json: options.Json = False,
    plugin: options.Plugin = None,
) -> None:
    """The card of NAME: what it is, formula, source, parameters, needs, cost, where it is defined."""
    from xaibench.cli import list_show

    _load_plugins(plugin)
    list_show.show(name, as_json=json)


@app.command()
def validate(
    suites: options.Suites,
    data_root: options.DataRoot = None,
    overrides: options.Set = None,
    json: options.Json = False,
    plugin: options.Plugin = None,
) -> None:
    """Check suites: format, names, parameters (exit 2), then model x method compatibility and data on disk (exit 1)."""
    from xaibench.cli import validate

    _load_plugins(plugin)
    raise typer.Exit(validate.validate(suites, data_root=data_root, overrides=overrides or [], as_json=json))


@app.command()
def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories, or scores.csv files.")],
    format: Annotated[
        Literal["table", "csv", "md"] | None,
        typer.Option("--format", help="How to write it; default: by the ending of -o, or a table."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .csv or .md file, or - for stdout.")] = Path("-"),
    published: Annotated[
        str | None,
        typer.Option("--published", metavar="NAME", help="Beside the numbers that the paper of this suite prints."),
    ] = None,
    ci: options.Intervals = False,
) -> None:
    """The table of one or several finished runs."""
    from xaibench.cli import leaderboard

    leaderboard.leaderboard(runs, format, output, published, intervals=ci)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A .yaml recipe, or the name of a bundled model.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for weights and card.")] = Path("checkpoints"),
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that read and augment images.")] = 0,
    progress: options.Progress = "auto",
    plugin: options.Plugin = None,
) -> None:
    """Multi-label fine-tuning of a timm model; writes safetensors and a card."""
    from xaibench.cli import train

    _load_plugins(plugin)
    device = options.device_of(device)
    train.train(recipe, out, data_root=data_root, device=device, workers=workers, progress=progress)


data = typer.Typer(no_args_is_help=True, help="Data sets on disk.")
app.add_typer(data, name="data")


@data.command(name="check")
def data_check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set, see `list datasets`.")],
    data_root: options.DataRoot = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this one; repeatable. Default: all.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the data set, e.g. masks=false."),
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Compare the official archives that are on disk with their MD5.")
    ] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Read every sample, as a run would.")] = False,
    workers: options.Workers = "auto",
    json: options.Json = False,
    plugin: options.Plugin = None,
) -> None:
    """Is NAME complete on disk? What is missing, where it comes from, its licence. Downloads nothing. Exit 4: incomplete."""
    from xaibench.cli import data_check

    _load_plugins(plugin)
    code = data_check.run(
        name,
        data_root=data_root,
        splits=split or [],
        options=option or [],
        checksums=checksums,
        decode=decode,
        workers=options.worker_number(workers),
        plugins=plugin or [],
        as_json=json,
    )
    raise typer.Exit(code)


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    model: Annotated[str, typer.Option("--model", help="A bundled or timm model, see `list models`.")],
    method: options.Methods,
    checkpoint: options.Checkpoint = None,
    activation: options.Activation = "sigmoid",
    num_classes: options.NumClasses = None,
    label: options.Labels = None,
    layers: options.Layers = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture to write.")] = Path("explained.png"),
    device: options.Device = "auto",
    precision: options.Precision = None,
    plugin: options.Plugin = None,
) -> None:
    r"""Maps of one IMAGE as a picture: a row per label, a column per method. Needs `pip install "xaibench\[figures]"`."""
    from xaibench.cli import explain

    _load_plugins(plugin)
    explain.explain(
        image,
        output,
        model=model,
        patterns=options.patterns_of("--method", method),
        labels=label or [],
        all_layers=layers == "all",
        options={
            "checkpoint": checkpoint,
            "activation": activation,
            "num_classes": num_classes,
            "precision": precision or "float32",
        },
        device=options.device_of(device),
    )


def _load_plugins(names: list[str] | None) -> None:
    if names:
        from xaibench.core.registry.plugins import load_plugin

        for name in names:
            load_plugin(name)


def main() -> None:
    """Run the command line. An error becomes one sentence and an exit code; `--debug` shows its traceback."""
    replace_what_cannot_be_encoded(sys.stdout, sys.stderr)
    try:
        app()
    except Exception as error:
        sys.exit(report(error, sys.argv[1:], debug=debugging))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer exits so after Ctrl-C, and prints nothing
            print("interrupted; everything finished is kept, the same command goes on", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
