"""The loop: models, parts of the samples, batches; in each batch every method and metric that is missing."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby

import torch

from xaibench.core.errors import XaibenchError
from xaibench.core.tracebacks import place
from xaibench.data.batch import Batch
from xaibench.data.contradictions import Contradictions
from xaibench.data.loader import Reader, batches, chunks, own_geometry, worker_count
from xaibench.forward import Forward, Plan
from xaibench.forward.explainer import Explainer
from xaibench.results.records import Records, error_row, part_of, parts_of
from xaibench.runner.bad_samples import BadSamples, why_bad
from xaibench.runner.batch_evaluation import BatchError, BatchResult, Rows, evaluate_batch
from xaibench.runner.benchmark import Benchmark
from xaibench.runner.cells import Key, ModelCells, model_cells
from xaibench.runner.settings import Progress, Settings
from xaibench.suite import Selection


class CellError(XaibenchError):
    """A method or metric raised an error in a run that stops at the first one."""

    exit_code = 3


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        models: those whose cells are in the table
        computed: parts of cells
        failed: a message for each method or metric that raised an error
        bad: the samples that could not be read, in this attempt or before it: id to reason
        contradictions: classes that masks hold and labels deny, by id of the samples that were read in this attempt
    """

    models: list[ModelCells] = field(default_factory=list)
    computed: int = 0
    failed: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    contradictions: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Runner:
    """Computes every missing cell of a benchmark, or of a part of it, into `records`."""

    def __init__(
        self,
        benchmark: Benchmark,
        records: Records,
        settings: Settings,
        progress: Progress | None = None,
        selection: Selection | None = None,
    ) -> None:
        self.benchmark, self.records, self.settings = benchmark, records, settings
        self.progress, self.selection = progress or Progress(), selection or benchmark.everything
        self.bad = BadSamples(benchmark.max_bad_samples, self.progress.note)
        self.outcome = Outcome(bad=self.bad.found)

    def run(self) -> Outcome:
        """Compute what is missing. An error in a method or metric costs its cells and is recorded; the rest goes on.

        Raises:
            SampleError: more bad samples than are allowed, those of the records included
            WorkerError: a process that read samples died
            CellError: the first error, where the settings say `fail_fast`
        """
        for source in self.benchmark.models:
            wanted = source.label in self.selection.models
            if not wanted and not self.records.knows(self.benchmark.dataset.name, source.label):
                continue  # a model is not loaded for a table that has no row of it
            model = model_cells(source, self.benchmark)
            self.outcome.models.append(model)
            for message in model.skipped if wanted else ():
                self.progress.note(message)
            ModelRun(self, model).run()
        return self.outcome


class ModelRun:
    """The missing cells of one model, part by part."""

    def __init__(self, runner: Runner, model: ModelCells) -> None:
        self.model, self.benchmark, self.settings = model, runner.benchmark, runner.settings
        self.records, self.progress = runner.records, runner.progress
        self.bad, self.outcome = runner.bad, runner.outcome
        self.parts = parts_of(self.benchmark.ids)
        self.failed: set[Key] = set()
        chosen = runner.selection
        self.selected = [
            (method, metric)
            for method, metric in model.cells
            if model.label in chosen.models and method in chosen.methods and metric in chosen.metrics
        ]
        self.explainers = {method.label: Explainer(method) for method in model.methods}
        # the plan of all the model's methods, so that a resumed part runs exactly as a fresh one
        self.plan = Plan()
        for explainer in self.explainers.values():
            self.plan = self.plan | explainer.plan(model.classifier)

    def run(self) -> None:
        self._recall_bad_samples()
        missing = self._missing()
        size = self.settings.batch_size
        todo = {index: chunks(self.parts[index], size) for index, keys in missing.items() if keys}
        self.progress.start(self.model.label, sum(len(self.parts[index]) for index in todo))

        def ahead() -> Iterator[range]:
            """What to read next; nothing for cells that have failed by then."""
            for index, asked in todo.items():
                if not self.failed.issuperset(missing[index]):
                    yield from asked

        workers = worker_count(self.settings.workers, self.settings.device, sum(map(len, todo.values())))
        contradictions = Contradictions(self.benchmark.dataset)
        with closing(self._read(ahead(), workers)) as stream:
            for index, part in groupby(contradictions.watch(stream), key=lambda batch: part_of(batch.samples)):
                self._run_part(index, part, missing[index])
        if contradictions.found:
            self.progress.note(contradictions.message)
            self.outcome.contradictions.update(contradictions.found)
        for cell in self.model.cells.values():
            self.records.merge(cell, len(self.parts))

    def _read(self, asked: Iterable[range], workers: int) -> Generator[Batch, None, None]:
        """The batches that are asked for, as input of the model."""
        dataset, classifier = self.benchmark.dataset, self.model.classifier
        geometry = own_geometry(dataset) or classifier.geometry
        return batches(dataset, geometry, asked, device=classifier.device, dtype=classifier.dtype, workers=workers)

    def _missing(self) -> dict[int, list[Key]]:
        """The cells that lack a part, by part."""
        cells, count = self.model.cells, len(self.parts)
        return {
            index: [key for key in self.selected if not self.records.has(cells[key], index, count)]
            for index in range(count)
        }

    def _run_part(self, index: int, part: Iterable[Batch], wanted: Sequence[Key]) -> None:
        """Compute and write one part of the cells that are wanted; those that fail on the way are left out."""
        rows: dict[Key, Rows] = {key: [] for key in wanted if key not in self.failed}
        for batch in part:
            self.bad.add(batch.bad)
            for sample_id, _ in batch.bad:
                for cell_rows in rows.values():
                    cell_rows.append(error_row(sample_id))
            if batch.ids:
                result = self._evaluate(batch, [key for key in rows if key not in self.failed])
                for error in result.errors:
                    self._fail(error)
                for key, batch_rows in result.rows.items():
                    rows[key] += batch_rows
            self.progress.images(len(batch.samples))
        for key, cell_rows in rows.items():
            if key not in self.failed:
                self.records.write(self.model.cells[key], index, len(self.parts), cell_rows)
                self.outcome.computed += 1

    def _evaluate(self, batch: Batch, keys: Sequence[Key]) -> BatchResult:
        """Rows and errors of one batch; where memory runs out, of its two halves."""
        wanted = [
            (explainer, [metric for metric in self.benchmark.metrics if (label, metric.label) in keys])
            for label, explainer in self.explainers.items()
        ]
        forward = Forward(
            self.model.classifier,
            batch.images,
            plan=self.plan,
            ground_truth=batch.ground_truth,
            ids=batch.ids,
            seed=self.benchmark.seed,
        )
        try:
            return evaluate_batch(forward, wanted)
        except torch.OutOfMemoryError:
            if len(batch.ids) == 1:
                raise
        del forward
        result = BatchResult()
        for half in batch.halves():
            failed = {(error.method, metric) for error in result.errors for metric in error.metrics}
            result.add(self._evaluate(half, [key for key in keys if key not in failed]))
        return result

    def _fail(self, failure: BatchError) -> None:
        """Record an error once for the method, or for the metric, that raised it."""
        keys = [(failure.method, metric) for metric in failure.metrics]
        error = failure.error
        reason = str(error) if isinstance(error, XaibenchError) else f"{type(error).__name__}: {error}"
        where = self._place(failure)
        subject = [self.model.label, failure.method, *([] if failure.of_method else failure.metrics)]
        message = f"{' / '.join(subject)}: {reason}" + (f" ({where})" if where else "")
        if self.settings.fail_fast:
            raise CellError(message) from error
        self.failed.update(keys)
        for key in keys:
            self.records.write_error(self.model.cells[key], message, "".join(traceback.format_exception(error)))
        lost = f"; {len(keys)} metrics are left out" if failure.of_method and len(keys) > 1 else ""
        self.outcome.failed.append(message + lost)
        self.progress.note(f"failed: {message}{lost}")

    def _place(self, failure: BatchError) -> str | None:
        """The innermost line of an error in the file of the method, or of the metric."""
        metrics = {metric.label: metric.entry for metric in self.benchmark.metrics}
        entries = [self.explainers[failure.method].method.entry, *(metrics[label] for label in failure.metrics)]
        return place(failure.error, {entry.function.__module__ for entry in entries}.__contains__)

    def _recall_bad_samples(self) -> None:
        """Samples that were bad when the records were made count again, so that a mark survives a resumed run."""
        known = self.records.bad_samples(self.model.cells.values(), len(self.parts)) - self.bad.found.keys()
        dataset = self.benchmark.dataset
        reader = Reader(dataset, own_geometry(dataset) or self.model.classifier.geometry)
        numbers = enumerate(self.benchmark.ids if known else ())
        self.bad.add([(sample_id, why_bad(reader, index)) for index, sample_id in numbers if sample_id in known])
