"""The loop: for each model, for each part of the samples, for each batch, every method and every metric that is missing."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from xaibench.core.errors import SampleError, UsageError, XaibenchError
from xaibench.core.registry import BoundMethod, BoundMetric
from xaibench.core.tracebacks import place
from xaibench.data import load_dataset
from xaibench.data.loader import Batch, Reader, batches, chunks, geometry, worker_count
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import check_maps, error_row, explainer, measure
from xaibench.forward import Forward, Pairs, Plan
from xaibench.results.records import Records, part_of, parts_of, rows_of
from xaibench.runner.cells import Key, Prepared, Settings, prepare
from xaibench.suite import ModelSection, Suite

Rows = list[dict[str, Any]]
MOST_LISTED = 20  # bad samples in one message; bad_samples.csv has all


@dataclass
class Progress:
    """What a run tells while it works."""

    start: Callable[[str, int], None] = lambda model, images: None
    images: Callable[[int], None] = lambda count: None
    note: Callable[[str], None] = lambda sentence: None


@dataclass
class Outcome:
    """What a run did. `bad` holds the samples that could not be read, in this attempt or before it: id to sentence."""

    prepared: list[Prepared] = field(default_factory=list)
    parts: int = 1
    computed: int = 0
    failed: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


class CellError(XaibenchError):
    """A method or metric raised an error in a run that stops at the first one."""

    exit_code = 3


class Runner:
    """Computes every missing cell of a suite into `records`."""

    def __init__(self, suite: Suite, records: Records, settings: Settings, progress: Progress | None = None) -> None:
        self.suite, self.records, self.settings = suite, records, settings
        self.progress = progress or Progress()
        options = suite.dataset.options
        self.dataset = load_dataset(
            suite.dataset.name, data_root=settings.data_root, split=suite.dataset.split, **options
        )
        self.ids = self.dataset.ids[: settings.limit]
        if not self.ids:
            raise UsageError(f"data set {self.dataset.name}: split {self.dataset.split} has no samples")
        self.parts = parts_of(self.ids)
        self.metrics = suite.bound_metrics()
        self.outcome = Outcome(parts=len(self.parts))

    @property
    def partial(self) -> bool:
        return len(self.ids) < len(self.dataset)

    def prepare(self, section: ModelSection) -> Prepared:
        """A model of the suite, see `preparing.prepare`."""
        return prepare(section, self.suite, self.dataset, self.ids, self.settings)

    def plan(self, prepared: Prepared) -> dict[str, int]:
        """What a run of this model would do: cells, cells there, samples."""
        done = sum(self.records.complete(cell) for cell in prepared.cells.values())
        return {"cells": len(prepared.cells), "done": done, "samples": len(self.ids)}

    def run(self) -> Outcome:
        """Everything that is missing. An error in a method or metric costs its cells and is recorded; the rest goes on.

        Raises:
            SampleError: more bad samples than the suite allows, those of the records included
            WorkerError: a process that read samples died
            CellError: the first error, where the settings say `fail_fast`
        """
        for section in self.suite.models:
            prepared = self.prepare(section)
            self.outcome.prepared.append(prepared)
            for sentence in prepared.skipped:
                self.progress.note(sentence)
            self._recall_bad_samples(prepared)
            self._run_model(prepared)
        return self.outcome

    def _run_model(self, prepared: Prepared) -> None:
        count = len(self.parts)
        failed: set[Key] = set()
        missing = {
            index: [key for key, cell in prepared.cells.items() if not self.records.has(cell, index, count)]
            for index in range(count)
        }
        size = self.settings.batch_size
        todo = {index: chunks(self.parts[index], size) for index, keys in missing.items() if keys}
        self.progress.start(prepared.section.label, sum(len(self.parts[index]) for index in todo))

        def ahead() -> Iterator[range]:
            """What to read next; nothing for cells that have failed by then."""
            for index, asked in todo.items():
                if not failed.issuperset(missing[index]):
                    yield from asked

        workers = worker_count(self.settings.workers, self.settings.device, sum(map(len, todo.values())))
        with closing(batches(self.dataset, prepared.classifier, ahead(), workers=workers)) as stream:
            for index, part in groupby(stream, key=lambda batch: part_of(batch.samples)):
                wanted = [key for key in missing[index] if key not in failed]
                rows = self._part(prepared, part, wanted, failed)
                for key in wanted:
                    if key not in failed:
                        self.records.write(prepared.cells[key], index, count, rows[key])
                        self.outcome.computed += 1
        for cell in prepared.cells.values():
            self.records.merge(cell, count)

    def _part(self, prepared: Prepared, part: Iterable[Batch], wanted: list[Key], failed: set[Key]) -> dict[Key, Rows]:
        """Rows of the wanted cells for one part; cells that fail on the way are added to `failed`."""
        rows: dict[Key, Rows] = {key: [] for key in wanted}
        # the plan of all the model's methods, so that a resumed part runs exactly as a fresh one
        plan = Plan()
        for method in prepared.methods:
            plan = plan | Plan.of(prepared.classifier, method.entry.needs, dict(method.parameters))
        for batch in part:
            for sample_id, sentence in batch.bad:
                self._add_bad_sample(sample_id, sentence)
                for own in rows.values():
                    own.append(error_row(sample_id))
            self._check_bad_samples()
            if batch.ids:
                keys = [key for key in wanted if key not in failed]
                for key, own in self._batch_rows(prepared, plan, batch, keys, failed).items():
                    rows[key] += own
            self.progress.images(len(batch.samples))
        return rows

    def _batch_rows(
        self, prepared: Prepared, plan: Plan, batch: Batch, wanted: list[Key], failed: set[Key]
    ) -> dict[Key, Rows]:
        """Rows of one batch; where memory runs out, of its two halves."""
        rows: dict[Key, Rows] = {key: [] for key in wanted}
        metrics = {metric.label: metric for metric in self.metrics}
        forward = Forward(
            prepared.classifier,
            batch.images,
            plan=plan,
            ground_truth=batch.ground_truth,
            ids=batch.ids,
            seed=self.suite.seed,
        )
        try:
            for method in prepared.methods:
                own = [metrics[k] for m, k in wanted if m == method.label]
                self._explain_and_measure(prepared, forward, method, own, rows, failed)
            return rows
        except torch.OutOfMemoryError:
            if len(batch.ids) == 1:
                raise
        del forward
        rows = {key: [] for key in wanted}
        for half in batch.halves():
            for key, own_rows in self._batch_rows(prepared, plan, half, wanted, failed).items():
                rows[key] += own_rows
        return rows

    def _explain_and_measure(
        self,
        prepared: Prepared,
        forward: Forward,
        method: BoundMethod,
        metrics: list[BoundMetric],
        rows: dict[Key, Rows],
        failed: set[Key],
    ) -> None:
        """One method on one batch: maps once for the union of the pairs, then each metric on its own rows."""
        if not metrics:
            return
        chosen = {rule: forward.select(rule) for rule in sorted({metric.explain for metric in metrics})}
        union = torch.stack(list(chosen.values())).any(0)
        pairs = Pairs.where(union)
        if not len(pairs):  # an image without a label still counts in a metric per image
            metrics = [metric for metric in metrics if metric.entry.per == "image"]
            if not metrics:
                return
        explain = explainer(method)
        started = time.perf_counter()
        try:
            with torch.no_grad():
                maps = explain(forward, pairs) if len(pairs) else forward.images.new_zeros((0, 1, 1))
            check_maps(maps, pairs, method.label)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            for metric in metrics:
                self._failed(prepared, (method.label, metric.label), error, failed)
            return
        map_seconds = (time.perf_counter() - started) / max(len(pairs), 1)
        evaluations = {}
        for rule, matrix in chosen.items():
            own = matrix[pairs.image, pairs.label]
            evaluations[rule] = Evaluation(forward, pairs[own], maps[own], explain)
        for metric in metrics:
            started = time.perf_counter()
            evaluation = evaluations[metric.explain]
            try:
                with torch.no_grad():
                    measured = measure(evaluation, metric)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._failed(prepared, (method.label, metric.label), error, failed)
                continue
            seconds = map_seconds + (time.perf_counter() - started) / max(len(measured.image), 1)
            sample_ids = [forward.ids[i] for i in measured.image]
            rows[method.label, metric.label] += rows_of(
                sample_ids, measured.label, measured.values, measured.parts, seconds
            )

    def _failed(self, prepared: Prepared, key: Key, error: Exception, failed: set[Key]) -> None:
        method, metric = key
        reason = str(error) if isinstance(error, XaibenchError) else f"{type(error).__name__}: {error}"
        sentence = f"{prepared.section.label} / {method} / {metric}: {reason}"
        if self.settings.fail_fast:
            where = self._place(prepared, key, error)
            raise CellError(sentence + (f" ({where})" if where else "")) from error
        failed.add(key)
        self.records.write_error(prepared.cells[key], sentence, "".join(traceback.format_exception(error)))
        self.outcome.failed.append(sentence)
        self.progress.note(f"failed: {sentence}")

    def _place(self, prepared: Prepared, key: Key, error: Exception) -> str | None:
        """The innermost line of an error in the file of the method or the metric of a cell."""
        methods = {method.label: method.entry.function.__module__ for method in prepared.methods}
        metrics = {metric.label: metric.entry.function.__module__ for metric in self.metrics}
        return place(error, {methods[key[0]], metrics[key[1]]}.__contains__)

    # -- bad samples --------------------------------------------------------------------------------------------

    def _recall_bad_samples(self, prepared: Prepared) -> None:
        """Those of parts that are there already count as if they were met now, so that a mark survives a resumed run."""
        known = self.records.bad_samples(prepared.cells.values(), len(self.parts)) - self.outcome.bad.keys()
        reader = Reader(self.dataset, geometry(prepared.classifier))
        for index, sample_id in enumerate(self.ids if known else ()):
            if sample_id in known:
                self._add_bad_sample(sample_id, why_bad(reader, index))
        self._check_bad_samples()

    def _add_bad_sample(self, sample_id: str, sentence: str) -> None:
        if sample_id not in self.outcome.bad:
            self.outcome.bad[sample_id] = sentence
            self.progress.note(f"bad sample {sample_id}: {sentence}")

    def _check_bad_samples(self) -> None:
        found, allowed = self.outcome.bad, self.suite.max_bad_samples
        if len(found) > allowed:
            listed = [f"{sample_id}: {sentence}" for sample_id, sentence in found.items()]
            more = f"; and {len(found) - MOST_LISTED} more in bad_samples.csv" if len(found) > MOST_LISTED else ""
            raise SampleError(
                f"bad samples: {len(found)} found, {allowed} allowed (--max-bad-samples): "
                + "; ".join(listed[:MOST_LISTED])
                + more
            )


def why_bad(reader: Reader, index: int) -> str:
    """What is wrong with a sample, asked again."""
    try:
        reader.read(index)
    except SampleError as error:
        return str(error)
    return "could not be read when its records were made; it can be now, and a run with a new --out counts it"
