"""Leaderboards: the wide view of a table of scores, as CSV, Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from xaibench.core.errors import UsageError
from xaibench.results.scores import COLUMNS, failed, without_value

if TYPE_CHECKING:
    from rich.table import Table

DECIMALS = 4
ARROWS = {"higher": "↑", "lower": "↓"}
UNTRAINED = "untrained model: its scores mean nothing"
GAP = 2  # blanks between two columns of a terminal table
Key = tuple[str, str, str]  # labels of model, method and metric


class Leaderboard:
    """The wide view of a table of scores.

    Args:
        scores: long, as `score_table` gives them (or `scores.csv` read back)
        title: printed above it
    """

    def __init__(self, scores: pd.DataFrame, title: str = "") -> None:
        missing = [column for column in COLUMNS if column not in scores.columns]
        if missing:
            raise UsageError(f"not a table of scores: the columns {', '.join(missing)} are missing")
        self.scores, self.title = scores, title
        self.metrics = list(dict.fromkeys(scores["metric"]))
        self.directions = dict(zip(scores["metric"], scores["direction"], strict=True))
        self.rows = list(dict.fromkeys(zip(scores["model"], scores["method"], strict=True)))
        keys = list(zip(scores["model"], scores["method"], scores["metric"], strict=True))
        self._values = dict(zip(keys, scores["value"], strict=True))
        self._intervals = dict(zip(keys, zip(scores["ci_low"], scores["ci_high"], strict=True), strict=True))
        self._failed = {key for key, is_failed in zip(keys, failed(scores), strict=True) if is_failed}

    def __repr__(self) -> str:
        return f"Leaderboard({self.title!r}: {len(self.rows)} rows, {len(self.metrics)} metrics)"

    # -- notes ----------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> list[str]:
        """Messages about the whole table that a reader needs before quoting a number."""
        notes = []
        if untrained := sorted(set(self.scores.loc[self.scores["untrained"].astype(bool), "model"])):
            notes.append(f"{', '.join(untrained)}: {UNTRAINED}.")
        if self.scores["partial"].any():
            notes.append("Partial run (--limit): not all samples of the split were evaluated.")
        notes += [f"{model} / {method}: no value is defined." for model, method in without_value(self.scores)]
        notes += list(self._undefined())
        if errors := errors_of(self.scores):
            notes.append(
                f"{plural(errors, 'sample')} could not be read: left out of every score, listed in bad_samples.csv."
            )
        if self._failed:
            notes.append(f"{plural(len(self._failed), 'cell')} failed: no value, marked in the table.")
        return notes

    def _undefined(self) -> Sequence[str]:
        """A message for each metric with undefined values, with the row that has most of them."""
        found = []
        for metric, own in self.scores.groupby("metric", sort=False):
            worst = own.iloc[int(own["n_undefined"].argmax())]
            if worst["n_undefined"] > 0:
                count = f"{worst['n_undefined']} of {worst['n'] + worst['n_undefined']} values"
                row = f"{worst['model']} / {worst['method']}"
                found.append(f"{metric} is undefined for up to {count} of a row ({row}); they are left out.")
        return found

    def _model_note(self, model: str) -> str:
        rows = self.scores[self.scores["model"] == model]
        marks = [UNTRAINED] if rows["untrained"].any() else []
        marks += ["partial run"] if rows["partial"].any() else []
        errors = errors_of(rows)
        return "; ".join(marks + ([f"{plural(errors, 'bad sample')} left out"] if errors else []))

    def _row_note(self, model: str, method: str) -> str:
        marks = [self._model_note(model)] if self._model_note(model) else []
        if lost := [metric for metric in self.metrics if (model, method, metric) in self._failed]:
            marks.append("failed" if len(lost) == len(self.metrics) else f"failed: {', '.join(lost)}")
        if (model, method) in without_value(self.scores):
            marks.append("no value is defined")
        return "; ".join(marks)

    # -- CSV and Markdown -----------------------------------------------------------------------------------------

    def wide(self) -> pd.DataFrame:
        """Columns model, method, one per metric, and `note` where a row has one."""
        table = pd.DataFrame(
            [
                {"model": model, "method": method, **{k: self._values.get((model, method, k)) for k in self.metrics}}
                for model, method in self.rows
            ],
            columns=["model", "method", *self.metrics],
        )
        notes = [self._row_note(model, method) for model, method in self.rows]
        if any(notes):
            table["note"] = notes
        return table

    def csv(self) -> str:
        return self.wide().to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")

    def markdown(self) -> str:
        """A GitHub table per model; the best method of a column is bold, controls aside."""
        blocks = [f"# {self.title}"] if self.title else []
        blocks += [f"> **Note.** {note}" for note in self.notes]
        header = ["method", *(f"{name.replace('_', ' ')} {ARROWS[self.directions[name]]}" for name in self.metrics)]
        for model in dict.fromkeys(model for model, _ in self.rows):
            lines = [header, ["---", *("---:" for _ in self.metrics)]]
            lines += self._body(model, self.metrics, lambda text: f"**{text}**", lambda text: f"_{text}_")
            blocks += [f"## {model}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join(blocks) + "\n"

    def _body(
        self,
        model: str,
        metrics: Sequence[str],
        strong: Callable[[str], str],
        faint: Callable[[str], str],
        intervals: bool = False,
    ) -> list[list[str]]:
        controls = set(self.scores.loc[self.scores["control"].astype(bool), "method"])
        methods = [method for m, method in self.rows if m == model]
        competing = [method for method in methods if method not in controls]
        best = {metric: self._best(model, competing, metric) for metric in metrics}
        lines = []
        for method in methods:
            cells = []
            for metric in metrics:
                text, value = self._text((model, method, metric), intervals), self._text((model, method, metric))
                cells.append(strong(text) if method not in controls and value == best[metric] else text)
            lines.append([faint(method) if method in controls else method, *cells])
        return lines

    def _text(self, key: Key, intervals: bool = False) -> str:
        value = self._values.get(key)
        if key in self._failed:
            return "failed"
        if value is None or value != value:
            return "–"
        low, high = self._intervals[key]
        interval = f" [{low:.{DECIMALS}f}, {high:.{DECIMALS}f}]" if intervals and low == low else ""
        return f"{value:.{DECIMALS}f}{interval}"

    def _best(self, model: str, methods: Sequence[str], metric: str) -> str | None:
        values = {method: self._values.get((model, method, metric)) for method in methods}
        defined = {method: value for method, value in values.items() if value is not None and value == value}
        if not defined:
            return None
        choose = max if self.directions[metric] == "higher" else min
        return self._text((model, choose(defined, key=lambda method: defined[method]), metric))

    # -- terminal ---------------------------------------------------------------------------------------------------

    def tables(self, width: int = 240, intervals: bool = False) -> list[Table]:
        """rich tables that fit into `width` columns: one per model, or several with as many metrics as fit into each.

        Args:
            intervals: add the bootstrap interval to every value
        """
        return [
            self._table(model, block, part, intervals)
            for model in dict.fromkeys(model for model, _ in self.rows)
            for part, block in enumerate(self._blocks(model, width, intervals))
        ]

    def _blocks(self, model: str, width: int, intervals: bool) -> list[list[str]]:
        """Consecutive metrics whose columns fit beside those of the methods; at least one each."""
        methods = [method for m, method in self.rows if m == model]
        blocks: list[list[str]] = []
        left = 0
        for metric in self.metrics:
            texts = [*metric.split("_"), *(self._text((model, method, metric), intervals) for method in methods)]
            needed = max(map(len, texts)) + GAP
            if not blocks or needed > left:
                blocks.append([])
                left = width - max(len(method) for method in [*methods, "method"])
            blocks[-1].append(metric)
            left -= needed
        return blocks

    def _table(self, model: str, metrics: Sequence[str], part: int, intervals: bool) -> Table:
        from rich.markup import escape
        from rich.table import Table

        note = self._model_note(model)
        title = escape(model) + (" (continued)" if part else f"  [red]({escape(note)})[/red]" if note else "")
        table = Table(
            title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, GAP, 0, 0)
        )
        table.add_column("method", no_wrap=True)
        for metric in metrics:
            heading = escape(metric).replace("_", "\n")
            table.add_column(f"{heading}\n{ARROWS[self.directions[metric]]}", justify="right", no_wrap=True)

        def strong(text: str) -> str:
            return f"[bold green]{escape(text)}[/]"

        for line in self._body(model, metrics, strong, lambda text: f"[dim]{escape(text)}[/]", intervals):
            table.add_row(*line)
        return table


def errors_of(scores: pd.DataFrame) -> int:
    """Number of samples that could not be read: the largest of all cells, in case files changed during a run."""
    return int(scores["n_error"].max()) if len(scores) else 0


def plural(count: int, word: str) -> str:
    """A count with its noun: "1 cell", "2 cells"."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def read_leaderboard(runs: Sequence[Path]) -> Leaderboard:
    """The leaderboard of one or several finished runs (directories, or `scores.csv` files).

    Runs of one suite become one table. Runs of several suites keep their models apart by the names of the suites.

    Raises:
        UsageError: no scores there, or two runs with different scores of one cell
    """
    frames = []
    for run in runs:
        path = run / "scores.csv" if run.is_dir() else run
        if not path.is_file():
            raise UsageError(f"{run}: no scores.csv; a run's directory is needed (xaibench run writes it)")
        frame = pd.read_csv(path, dtype={"suite": str, "model": str, "method": str, "metric": str})
        Leaderboard(frame)  # refuses what is no table of scores
        frames.append(frame)
    scores = pd.concat(frames, ignore_index=True)
    suites = sorted(set(scores["suite"]))
    if len(suites) > 1:
        scores["model"] = scores["suite"] + " / " + scores["model"]
    return Leaderboard(_merged(scores), " + ".join(suites))


def _merged(scores: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell. Raises UsageError where two runs have different scores of a cell."""
    names = ["model", "method", "metric"]
    merged = scores.drop_duplicates([*names, "fingerprint"])
    twice = merged[merged.duplicated(names)]
    if len(twice):
        model, method, metric = twice.iloc[0][names]
        raise UsageError(
            f"two runs have different scores for {model} / {method} / {metric} (other data, weights, versions or "
            "parameters); show them one by one"
        )
    return merged.reset_index(drop=True)
