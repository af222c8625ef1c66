"""The loop: for each model, for each part of the samples, for each batch, every method and every metric that is missing."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.classifier import Classifier
from xaibench.classifier_loading import load_classifier
from xaibench.datasets import Dataset, Sample, load_dataset
from xaibench.errors import IncompatibleError, SampleError, UsageError, XaibenchError
from xaibench.evaluation import Evaluation, Explainer
from xaibench.forward import Forward, Pairs, Plan
from xaibench.records import Cell, Records, digest, parts_of, rows_of
from xaibench.regions import Regions
from xaibench.scores import PER_IMAGE, aggregation
from xaibench.suite import BoundMethod, BoundMetric, Explain, ModelSection, Suite

Key = tuple[str, str]  # (method label, metric label)
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; nothing here changes a number beyond rounding."""

    data_root: Path | None = None
    suite_folder: Path = Path()
    device: str = "cpu"
    batch_size: int = 16
    limit: int | None = None
    fail_fast: bool = False


@dataclass
class Progress:
    """What a run tells while it works."""

    start: Callable[[str, int], None] = lambda model, images: None
    images: Callable[[int], None] = lambda count: None
    note: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Batch:
    """Samples as tensors on the device, and what could not be read: (id, reason)."""

    ids: list[str]
    images: Tensor
    labels: Tensor
    mask: Tensor | None
    bad: list[tuple[str, str]]
    regions: Regions | None = None

    def halves(self) -> list[Batch]:
        middle = len(self.ids) // 2
        rows = torch.arange(len(self.ids), device=self.images.device)
        return [
            Batch(
                self.ids[s], self.images[s], self.labels[s], None if self.mask is None else self.mask[s], [],
                None if self.regions is None else self.regions[rows[s]],
            )
            for s in (slice(middle), slice(middle, None))
        ]  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """One model of a suite, ready to run: its classifier and the cells that its compatible methods give."""

    section: ModelSection
    classifier: Classifier
    methods: list[BoundMethod]
    skipped: list[str]
    cells: dict[Key, Cell]


@dataclass
class Outcome:
    """What a run did."""

    prepared: list[Prepared] = field(default_factory=list)
    parts: int = 1
    computed: int = 0
    failed: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


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

    # -- preparation --------------------------------------------------------------------------------------------

    def prepare(self, section: ModelSection) -> Prepared:
        """Load a model and sort out which methods go with it. Raises UsageError when none does, or labels differ."""
        classifier = open_model(section, self.suite, self.dataset, self.settings)
        methods, skipped = [], []
        for method in self.suite.bound_methods(section):
            lacking = [need for need in method.entry.needs if need != "masks" and need not in classifier.offers()]
            if lacking:
                skipped.append(f"{section.label}: {method.label} left out: {classifier.lack(lacking[0])}")
            else:
                layer = method.parameters.get("layer")
                try:
                    if layer is not None:
                        classifier.layer_name(layer)
                    methods.append(method)
                except UsageError as error:
                    if len(self.suite.models) == 1:
                        raise
                    # a layer's name is one model's; `validate` finds a method that goes with none
                    skipped.append(f"{section.label}: {method.label} left out: {error}")
        if not methods:
            raise IncompatibleError(f"no method of the suite goes with {section.label}: " + "; ".join(skipped))
        cells = {(m.label, k.label): self._cell(section, classifier, m, k) for m in methods for k in self.metrics}
        return Prepared(section, classifier, methods, skipped, cells)

    def _cell(self, section: ModelSection, classifier: Classifier, method: BoundMethod, metric: BoundMetric) -> Cell:
        facts = {
            "dataset": {
                "name": self.dataset.name,
                "version": self.dataset.entry.version,
                "split": self.dataset.split,
                "revision": self.dataset.revision,
                "ids": digest(self.ids),
            },
            "model": {
                "name": section.name,
                "options": section.options,
                "weights": classifier.weights_hash,
                "activation": classifier.activation,
                "threshold": classifier.threshold,
                "layer": classifier.anatomy.last,
                "preprocess": vars(classifier.preprocess),
            },
            "method": {
                "name": method.entry.name,
                "version": method.entry.version,
                "parameters": dict(method.parameters),
            },
            "metric": {
                "name": metric.entry.name,
                "version": metric.entry.version,
                "parameters": {k: v for k, v in metric.parameters.items() if k != "average"},
                "explain": metric.explain,
            },
            "seed": self.suite.seed,
            "precision": "float32",
        }
        return Cell(self.dataset.name, section.label, method.label, metric.label, facts)

    def plan(self, prepared: Prepared) -> dict[str, int]:
        """What a run of this model would do: cells, cells there, samples."""
        done = sum(self.records.complete(cell) for cell in prepared.cells.values())
        return {"cells": len(prepared.cells), "done": done, "samples": len(self.ids)}

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Everything that is missing. An error in a method or metric costs its cells and is recorded; the rest goes on."""
        for section in self.suite.models:
            prepared = self.prepare(section)
            self.outcome.prepared.append(prepared)
            for sentence in prepared.skipped:
                self.progress.note(sentence)
            self._run_model(prepared)
        return self.outcome

    def _run_model(self, prepared: Prepared) -> None:
        count = len(self.parts)
        failed: set[Key] = set()
        missing = {
            index: [key for key, cell in prepared.cells.items() if not self.records.has(cell, index, count)]
            for index in range(count)
        }
        self.progress.start(prepared.section.label, sum(len(self.parts[i]) for i, keys in missing.items() if keys))
        for index, keys in missing.items():
            if wanted := [key for key in keys if key not in failed]:
                rows = self._part(prepared, self.parts[index], wanted, failed)
                for key in wanted:
                    if key not in failed:
                        self.records.write(prepared.cells[key], index, count, rows[key])
                        self.outcome.computed += 1
        for cell in prepared.cells.values():
            self.records.merge(cell, count)

    def _part(
        self, prepared: Prepared, samples: range, wanted: list[Key], failed: set[Key]
    ) -> dict[Key, Rows]:
        """Rows of the wanted cells for one part; cells that fail on the way are added to `failed`."""
        rows: dict[Key, Rows] = {key: [] for key in wanted}
        classifier = prepared.classifier
        # the plan of all the model's methods, so that a resumed part runs exactly as a fresh one
        plan = Plan()
        for method in prepared.methods:
            plan = plan | Plan.of(classifier, method.entry.needs, dict(method.parameters))
        for batch in self._batches(samples, classifier):
            for sample_id, reason in batch.bad:
                self._bad_sample(sample_id, reason, rows)
            if batch.ids:
                keys = [key for key in wanted if key not in failed]
                for key, own in self._batch_rows(prepared, plan, batch, keys, failed).items():
                    rows[key] += own
            self.progress.images(len(batch.ids) + len(batch.bad))
        return rows

    def _batch_rows(
        self, prepared: Prepared, plan: Plan, batch: Batch, wanted: list[Key], failed: set[Key]
    ) -> dict[Key, Rows]:
        """Rows of one batch; where memory runs out, of its two halves."""
        rows: dict[Key, Rows] = {key: [] for key in wanted}
        metrics = {metric.label: metric for metric in self.metrics}
        forward = Forward(
            prepared.classifier, batch.images, plan=plan, mask=batch.mask, regions=batch.regions, present=batch.labels,
            ids=batch.ids, seed=self.suite.seed,
        )  # fmt: skip
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
        self, prepared: Prepared, forward: Forward, method: BoundMethod, metrics: list[BoundMetric],
        rows: dict[Key, Rows], failed: set[Key],
    ) -> None:  # fmt: skip
        """One method on one batch: maps once for the union of the pairs, then each metric on its own rows."""
        if not metrics:
            return
        chosen = {rule: choose(forward, rule) for rule in sorted({metric.explain for metric in metrics})}
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

    def _failed(
        self, prepared: Prepared, key: Key, error: Exception, failed: set[Key]
    ) -> None:
        if self.settings.fail_fast:
            raise error
        failed.add(key)
        method, metric = key
        reason = str(error) if isinstance(error, XaibenchError) else f"{type(error).__name__}: {error}"
        sentence = f"{prepared.section.label} / {method} / {metric}: {reason}"
        self.records.write_error(prepared.cells[key], sentence, "".join(traceback.format_exception(error)))
        self.outcome.failed.append(sentence)
        self.progress.note(f"failed: {sentence}")

    def _bad_sample(self, sample_id: str, reason: str, rows: dict[Key, Rows]) -> None:
        if sample_id not in self.outcome.bad:
            self.outcome.bad[sample_id] = reason
            self.progress.note(f"bad sample {sample_id}: {reason}")
        if len(self.outcome.bad) > self.suite.max_bad_samples:
            raise SampleError(
                f"{len(self.outcome.bad)} samples could not be read, {self.suite.max_bad_samples} are allowed "
                f"(max_bad_samples): " + "; ".join(f"{i}: {r}" for i, r in self.outcome.bad.items())
            )
        row = {"sample_id": sample_id, "label": PER_IMAGE, "value": float("nan"), "status": "error"}
        for cell_rows in rows.values():
            cell_rows.append({**row, "seconds": 0.0, "parts": None})

    # -- data ---------------------------------------------------------------------------------------------------

    def _batches(self, samples: range, classifier: Classifier) -> Iterator[Batch]:
        """Batches in order, the next one being read while the present one is explained."""
        size = self.settings.batch_size
        ranges = [samples[start : start + size] for start in range(0, len(samples), size)]
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(self._batch, chunk, classifier) for chunk in ranges[:1]]
            for following in [*ranges[1:], None]:
                batch = coming.pop().result()
                if following is not None:
                    coming.append(pool.submit(self._batch, following, classifier))
                yield batch

    def _batch(self, samples: range, classifier: Classifier) -> Batch:
        good: list[Sample] = []
        bad: list[tuple[str, str]] = []
        for index in samples:
            try:
                good.append(self.dataset[index])
            except SampleError as error:
                bad.append((self.ids[index], str(error)))
        return collate(good, classifier, bad)


def collate(samples: Sequence[Sample], classifier: Classifier, bad: list[tuple[str, str]] | None = None) -> Batch:
    """Samples through the model's input geometry, on its device."""
    preprocess = classifier.preprocess
    if preprocess is None:
        raise UsageError(f"model {classifier.name}: its input geometry is not known (Classifier(preprocess=...))")
    if not samples:
        empty = torch.empty(0)
        return Batch([], empty, empty, None, bad or [])
    parameter = next(classifier.module.parameters())
    images = torch.stack([preprocess.image(sample.image) for sample in samples])
    labels = torch.stack([torch.from_numpy((s.labels > 0) & (s.ignore == 0)) for s in samples])
    masks = [preprocess.mask(sample.mask) for sample in samples if sample.mask is not None]
    if 0 < len(masks) < len(samples):
        lacking = next(sample for sample in samples if sample.mask is None)
        raise SampleError(f"{lacking.source}: has no mask, though other samples of its data set have one")
    regions = Regions.collate(samples, preprocess)
    return Batch(
        ids=[sample.id for sample in samples],
        images=images.to(parameter.device, parameter.dtype),
        labels=labels.to(parameter.device),
        mask=torch.stack(masks).to(parameter.device) if masks else None,
        bad=bad or [],
        regions=None if regions is None else regions.to(parameter.device),
    )


def choose(forward: Forward, rule: Explain) -> Tensor:
    """bool [B, L]: which labels of each image are explained."""
    if rule == "detected":
        return forward.detected
    if rule == "predicted":
        return torch.zeros_like(forward.detected).scatter(1, forward.probabilities.argmax(1, keepdim=True), True)
    if forward.present is None:
        raise UsageError(f"explain: {rule} needs ground-truth labels")
    return forward.present


def check_maps(maps: Tensor, pairs: Pairs, name: str) -> None:
    if not isinstance(maps, Tensor) or maps.ndim != 3 or len(maps) != len(pairs):
        found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise UsageError(f"method {name} returned {found}; [P, h, w] with P = {len(pairs)} is needed")


def explainer(method: BoundMethod) -> Explainer:
    """The method with its parameters, telling each forward pass beforehand what it will need."""

    def explain(forward: Forward, pairs: Pairs) -> Tensor:
        forward.expect(Plan.of(forward.classifier, method.entry.needs, dict(method.parameters)))
        maps: Tensor = method.entry.function(forward, pairs, **method.parameters)
        return maps

    return explain


@dataclass(frozen=True)
class Measured:
    """Values of a metric: one per pair, or one per image of the batch with the label `PER_IMAGE`.

    Attributes:
        image: row of the batch; label: of the pair, or `PER_IMAGE`
        parts: the statistics that a value comes from, where a mean of values is not the score
    """

    image: list[int]
    label: list[int]
    values: list[float]
    parts: list[list[float] | None]


def measure(evaluation: Evaluation, metric: BoundMetric) -> Measured:
    """Compute a metric and check that it gives a row per pair, or per image."""
    result = metric.entry.function(evaluation, **metric.parameters)
    if metric.entry.per == "image":
        image = list(range(len(evaluation.forward.images)))
        label = [PER_IMAGE] * len(image)
    else:
        image, label = evaluation.pairs.image.tolist(), evaluation.pairs.label.tolist()
    if not isinstance(result, Tensor) or result.ndim not in (1, 2) or len(result) != len(image):
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UsageError(f"metric {metric.label} returned {found}; one row per {metric.entry.per} is needed")
    numbers = result.double().cpu().numpy()
    if result.ndim == 1:
        return Measured(image, label, numbers.tolist(), [None] * len(numbers))
    return Measured(image, label, aggregation(metric.aggregate).value(numbers).tolist(), list(numbers.tolist()))


def open_model(section: ModelSection, suite: Suite, dataset: Dataset, settings: Settings) -> Classifier:
    """A model of a suite, its checkpoint found beside the suite or below the data root, its labels those of the data."""
    from xaibench import bundled, model_cache

    labels = len(dataset.class_names)
    if section.num_classes not in (None, labels):
        raise UsageError(
            f"model {section.label}: num_classes {section.num_classes}, but {dataset.name} has {labels} labels"
        )
    if section.name in bundled.names() and bundled.classes(section.name) != dataset.class_names:
        raise UsageError(f"model {section.name} was trained on other labels than those of {dataset.name}")
    dataset.check_channels(section.in_chans or 3, f"model {section.label}")
    classifier = load_classifier(
        section.name,
        num_classes=labels,
        checkpoint=_locate(section.checkpoint, settings),
        pretrained=section.pretrained,
        activation=section.activation,
        layer=section.layer,
        threshold=suite.threshold,
        input=section.input.model_dump(exclude_none=True),
        in_chans=section.in_chans,
        extra_channels=section.extra_channels,
        options=section.options,
        device=settings.device,
        seed=suite.seed,
        cache=model_cache.SUITES,
    )
    return classifier


def _locate(checkpoint: Path | None, settings: Settings) -> Path | None:
    """A relative checkpoint is beside the suite's file, or below the data root."""
    if checkpoint is None or checkpoint.is_absolute():
        return checkpoint
    roots = [settings.suite_folder, *([settings.data_root] if settings.data_root else [])]
    return next((root / checkpoint for root in roots if (root / checkpoint).is_file()), roots[0] / checkpoint)
