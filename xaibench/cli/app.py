"""The command line: verbs only. Everything heavy is imported inside a verb, so that `xaibench --help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from xaibench.cli.console_encoding import replace_what_cannot_be_encoded
from xaibench.cli.exit_codes import INTERRUPTED, epilog, report
from xaibench.cli.options import DataRoot, Device, Intervals, Json, Plugin, Precision, Progress, Set, Suites, Workers

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The benchmark for multi-label explanation: attribution methods, metrics, suites and leaderboards.",
    epilog=epilog(),
)

debugging = False  # `--debug`, of the command that runs


def version(value: bool) -> None:
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
    suites: Suites,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory to write; default runs/SUITE. Several suites: a folder each in it."),
    ] = None,
    data_root: DataRoot = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", metavar="GLOB,...", help="Only these methods; repeatable.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="GLOB,...", help="Only these metrics; repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="GLOB,...", help="Only these models; repeatable.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only the part that the suite calls representative.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N samples; marks the run partial.")
    ] = None,
    overrides: Set = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the suite's.")] = None,
    device: Device = "auto",
    precision: Precision = None,
    batch_size: Annotated[str, typer.Option("--batch-size", metavar="N|auto", help="Images per batch.")] = "auto",
    workers: Workers = "auto",
    max_bad_samples: Annotated[
        int | None, typer.Option("--max-bad-samples", min=0, help="Samples that may be bad (unreadable, no mask...).")
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first error in a method or metric.")
    ] = False,
    ci: Intervals = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    progress: Progress = "auto",
    plugin: Plugin = None,
) -> None:
    """Evaluate every missing cell of SUITE, write records, print the leaderboard. The same command again goes on."""
    from xaibench.cli import options as options
    from xaibench.cli import run
    from xaibench.runner.settings import Settings

    _plugins(plugin)
    given = {"seed": seed, "precision": precision, "max_bad_samples": max_bad_samples}
    jobs = run.jobs_of(
        suites,
        out,
        overrides=[*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)],
        quick=quick,
        patterns={
            "method": options.patterns_of("--method", method),
            "metric": options.patterns_of("--metric", metric),
            "model": options.patterns_of("--model", model),
        },
    )
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
    json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Methods, metrics, models, datasets or suites."""
    from xaibench.cli import list_show

    _plugins(plugin)
    list_show.list_(kind, glob, model=model, long=long, as_json=json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, metric, model, data set or suite.")],
    json: Json = False,
    plugin: Plugin = None,
) -> None:
    """The card of NAME: what it is, formula, source, parameters, needs, cost, where it is defined."""
    from xaibench.cli import list_show

    _plugins(plugin)
    list_show.show(name, as_json=json)


@app.command()
def validate(
    suites: Suites,
    data_root: DataRoot = None,
    overrides: Set = None,
    json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Check suites: format, names, parameters (exit 2), then model x method compatibility and data on disk (exit 1)."""
    from xaibench.cli import commands

    _plugins(plugin)
    raise typer.Exit(commands.validate(suites, data_root=data_root, overrides=overrides or [], as_json=json))


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
    ci: Intervals = False,
) -> None:
    """The table of one or several finished runs."""
    from xaibench.cli import commands

    commands.leaderboard(runs, format, output, published, intervals=ci)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A .yaml recipe, or the name of a bundled model.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for weights and card.")] = Path("checkpoints"),
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that read and augment images.")] = 0,
    progress: Progress = "auto",
    plugin: Plugin = None,
) -> None:
    """Multi-label fine-tuning of a timm model; writes safetensors and a card."""
    from xaibench.cli import commands
    from xaibench.cli.options import device_of

    _plugins(plugin)
    commands.train(recipe, out, data_root=data_root, device=device_of(device), workers=workers, progress=progress)


data = typer.Typer(no_args_is_help=True, help="Data sets on disk.")
app.add_typer(data, name="data")


@data.command(name="check")
def data_check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set, see `list datasets`.")],
    data_root: DataRoot = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this one; repeatable. Default: all.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the data set, e.g. masks=false."),
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Compare the official archives that are on disk with their MD5.")
    ] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Read every sample, as a run would.")] = False,
    workers: Workers = "auto",
    json: Json = False,
    plugin: Plugin = None,
) -> None:
    """Is NAME complete on disk? What is missing, where it comes from, its licence. Downloads nothing. Exit 4: incomplete."""
    from xaibench.cli import data_check
    from xaibench.cli.options import worker_number

    _plugins(plugin)
    code = data_check.run(
        name,
        data_root=data_root,
        splits=split or [],
        options=option or [],
        checksums=checksums,
        decode=decode,
        workers=worker_number(workers),
        plugins=plugin or [],
        as_json=json,
    )
    raise typer.Exit(code)


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    model: Annotated[str, typer.Option("--model", help="A bundled or timm model, see `list models`.")],
    method: Annotated[
        list[str], typer.Option("--method", metavar="GLOB,...", help="Methods, one column each; repeatable.")
    ],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weights: safetensors, or a state dict.")
    ] = None,
    activation: Annotated[
        Literal["sigmoid", "softmax"], typer.Option("--activation", help="What makes logits probabilities.")
    ] = "sigmoid",
    num_classes: Annotated[int | None, typer.Option("--num-classes", min=1, help="Length of the logits.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A name or an index; default: the detected labels, at most 5.")
    ] = None,
    layers: Annotated[
        Literal["all"] | None,
        typer.Option("--layers", help="With `--method vgatt`: its bias term and bias/score ratio at every depth."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture to write.")] = Path("explained.png"),
    device: Device = "auto",
    precision: Precision = None,
    plugin: Plugin = None,
) -> None:
    r"""Maps of one IMAGE as a picture: a row per label, a column per method. Needs `pip install "xaibench\[figures]"`."""
    from xaibench.cli import commands
    from xaibench.cli.options import device_of, patterns_of

    _plugins(plugin)
    commands.explain(
        image,
        output,
        model=model,
        patterns=patterns_of("--method", method),
        labels=label or [],
        all_layers=layers == "all",
        options={
            "checkpoint": checkpoint,
            "activation": activation,
            "num_classes": num_classes,
            "precision": precision or "float32",
        },
        device=device_of(device),
    )


def _plugins(names: list[str] | None) -> None:
    if names:
        from xaibench.core.registry.plugins import load_plugin

        for name in names:
            load_plugin(name)


def main() -> None:
    """The console script: an error becomes one sentence and an exit code; `--debug` shows its traceback."""
    replace_what_cannot_be_encoded(sys.stdout, sys.stderr)
    try:
        app()
    except Exception as error:
        sys.exit(report(error, sys.argv[1:], debug=debugging))
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            print("interrupted; everything finished is kept, the same command goes on", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
