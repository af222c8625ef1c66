"""Leaderboards: the long table of scores, and the wide one that people read, as CSV, Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from xaibench.core.errors import UsageError
from xaibench.core.seeding import stable_seed
from xaibench.results.scores import score

if TYPE_CHECKING:
    from rich.table import Table

    from xaibench.runner.loop import Runner

DECIMALS = 4
ARROWS = {"higher": "↑", "lower": "↓"}
COLUMNS = [
    "suite", "dataset", "split", "model", "method", "metric", "direction", "n", "n_undefined", "n_error", "value",
    "std", "stderr", "ci_low", "ci_high", "seconds_per_sample", "fingerprint", "version", "partial", "untrained",
    "control",
]  # fmt: skip
UNTRAINED = "untrained model: its scores mean nothing"


def collect(runner: Runner) -> pd.DataFrame:
    """Scores of every complete cell of a run, in the suite's order: one row per (model, method, metric)."""
    import xaibench

    rows: list[dict[str, Any]] = []
    for prepared in runner.outcome.prepared:
        for method in prepared.methods:
            for metric in runner.metrics:
                cell = prepared.cells[method.label, metric.label]
                if not runner.records.complete(cell):
                    continue
                frame = runner.records.read(cell)
                # the same resamples for all methods, so that their intervals can be compared
                seed = stable_seed(runner.suite.seed, "bootstrap", metric.label)
                rows.append(
                    {
                        "suite": runner.suite.name,
                        "dataset": runner.dataset.name,
                        "split": runner.dataset.split,
                        "model": prepared.section.label,
                        "method": method.label,
                        "metric": metric.label,
                        "direction": metric.better,
                        **asdict(score(frame, metric.aggregate, seed)),
                        "seconds_per_sample": frame["seconds"].sum() / max(frame["sample_id"].nunique(), 1),
                        "fingerprint": cell.fingerprint[:16],
                        "version": xaibench.__version__,
                        "partial": runner.partial,
                        "untrained": not prepared.classifier.trained,
                        "control": method.entry.control,
                    }
                )
    return pd.DataFrame(rows, columns=COLUMNS)


class Leaderboard:
    """The wide view of a table of scores.

    Args:
        scores: long, as `collect` gives them (or `scores.csv` read back)
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
        self._values = {
            (model, method, metric): value
            for model, method, metric, value in zip(
                scores["model"], scores["method"], scores["metric"], scores["value"], strict=True
            )
        }

    @property
    def notes(self) -> list[str]:
        """What a reader must know before quoting a number."""
        notes = []
        if untrained := sorted(set(self.scores.loc[self.scores["untrained"].astype(bool), "model"])):
            notes.append(f"{', '.join(untrained)}: {UNTRAINED}.")
        if self.scores["partial"].any():
            notes.append("Partial run (--limit): not all samples of the split were evaluated.")
        undefined = self.scores.groupby("metric", sort=False)["n_undefined"].max()
        for metric, count in undefined[undefined > 0].items():
            notes.append(f"{metric} is undefined for up to {count} pairs of a row; they are left out.")
        if errors := errors_of(self.scores):
            words = "could not be read: left out of every score, listed in bad_samples.csv"
            notes.append(f"{plural(errors, 'sample')} {words}.")
        return notes

    def _note(self, model: str) -> str:
        rows = self.scores[self.scores["model"] == model]
        marks = [UNTRAINED] if rows["untrained"].any() else []
        marks += ["partial run"] if rows["partial"].any() else []
        errors = errors_of(rows)
        return "; ".join(marks + ([f"{plural(errors, 'bad sample')} left out"] if errors else []))

    def wide(self) -> pd.DataFrame:
        """Columns model, method, one per metric, and `note` where there is something to say against a row."""
        table = pd.DataFrame(
            [
                {"model": model, "method": method, **{k: self._values.get((model, method, k)) for k in self.metrics}}
                for model, method in self.rows
            ],
            columns=["model", "method", *self.metrics],
        )
        notes = [self._note(model) for model, _ in self.rows]
        if any(notes):
            table["note"] = notes
        return table

    def csv(self) -> str:
        return self.wide().to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")

    def markdown(self) -> str:
        """A GitHub table per model; the best method of a column is bold, controls aside."""
        blocks = [f"# {self.title}"] if self.title else []
        blocks += [f"> **Note.** {note}" for note in self.notes]
        header = [
            "method",
            *(f"{metric.replace('_', ' ')} {ARROWS[self.directions[metric]]}" for metric in self.metrics),
        ]
        for model in dict.fromkeys(model for model, _ in self.rows):
            lines = [header, ["---", *("---:" for _ in self.metrics)]]
            lines += self._body(model, lambda text: f"**{text}**", lambda text: f"_{text}_")
            blocks += [f"## {model}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join(blocks) + "\n"

    def _body(self, model: str, strong: Callable[[str], str], faint: Callable[[str], str]) -> list[list[str]]:
        controls = set(self.scores.loc[self.scores["control"].astype(bool), "method"])
        methods = [method for m, method in self.rows if m == model]
        best = {metric: self._best(model, [m for m in methods if m not in controls], metric) for metric in self.metrics}
        lines = []
        for method in methods:
            cells = []
            for metric in self.metrics:
                text = self._text(model, method, metric)
                cells.append(strong(text) if method not in controls and text == best[metric] else text)
            lines.append([faint(method) if method in controls else method, *cells])
        return lines

    def _text(self, model: str, method: str, metric: str) -> str:
        value = self._values.get((model, method, metric))
        return "–" if value is None or value != value else f"{value:.{DECIMALS}f}"

    def _best(self, model: str, methods: Sequence[str], metric: str) -> str | None:
        values = {method: self._values.get((model, method, metric)) for method in methods}
        defined = {method: value for method, value in values.items() if value is not None and value == value}
        if not defined:
            return None
        choose = max if self.directions[metric] == "higher" else min
        return self._text(model, choose(defined, key=lambda method: defined[method]), metric)

    def tables(self) -> list[Table]:
        """One rich table per model, for the terminal."""
        from rich.markup import escape
        from rich.table import Table

        tables = []
        for model in dict.fromkeys(model for model, _ in self.rows):
            note = self._note(model)
            title = escape(model) + (f"  [red]({escape(note)})[/red]" if note else "")
            table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
            table.add_column("method", no_wrap=True)
            for metric in self.metrics:
                words = escape(metric).replace("_", "\n")
                table.add_column(f"{words}\n{ARROWS[self.directions[metric]]}", justify="right", no_wrap=True)
            for line in self._body(model, lambda t: f"[bold green]{t}[/]", lambda t: f"[dim]{escape(t)}[/]"):
                table.add_row(*line)
            tables.append(table)
        return tables


def errors_of(scores: pd.DataFrame) -> int:
    """How many samples could not be read; they are the same in all cells unless files changed in between."""
    return int(scores["n_error"].max()) if len(scores) else 0


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
