"""The public functions `explain`, `evaluate`, `run` and `benchmark`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd
import torch
from torch import Tensor

from xaibench.core.errors import UsageError
from xaibench.core.registry import PairRule, bound_method
from xaibench.data import Dataset
from xaibench.data.ground_truth import GroundTruth
from xaibench.evaluation import Evaluation, Explain
from xaibench.evaluation.measure import measure, pair_table
from xaibench.forward import Forward, Pairs
from xaibench.forward.explainer import Explainer
from xaibench.forward.one_pass import check_images
from xaibench.models.capabilities import require
from xaibench.models.classifier import Classifier
from xaibench.models.model_cache import ModelCache
from xaibench.results.accumulated import Scores, score_rows
from xaibench.runner.attempt import default_directory
from xaibench.runner.benchmark import benchmark_of
from xaibench.runner.python_benchmark import Methods, Metrics, Models, Question, data_of, device_of, python_benchmark
from xaibench.runner.run_directory import Run, run_and_forget, run_benchmark
from xaibench.runner.settings import Progress, Settings
from xaibench.suite import Globs, Suite, parse_metrics, select, suite_of

PairsLike = Pairs | PairRule
MethodLike = str | Mapping[str, Any] | Explain


def explain(
    classifier: Classifier,
    images: Tensor,
    pairs: PairsLike = "detected",
    *,
    method: str,
    masks: Tensor | None = None,
    labels: Tensor | None = None,
    **parameters: Any,
) -> Tensor:
    """Attribution maps of (image, label) pairs.

    Args:
        classifier: see `Classifier`
        images: [B, C, H, W], already normalised
        pairs: what to explain, or "detected", "predicted", "present" (needs labels)
        method: a registered method's name; `parameters` are its own
        masks: [B, H, W] as in `evaluate`, only for methods that need ground truth
        labels: bool [B, L], ground truth

    Returns:
        Raw, signed maps [P, h, w] at the method's native resolution.

    Raises:
        UsageError: an unknown method or parameter, pairs outside the batch
        IncompatibleError: the model lacks what the method needs
    """
    explainer = Explainer(bound_method(method, parameters))
    check_images(classifier, images)
    classifier.inspect(images)
    classifier.try_images(images)
    require(classifier, explainer.method.entry)
    truth = _ground_truth(masks, labels)
    forward = Forward(classifier, images, plan=explainer.plan(classifier), ground_truth=truth)
    with torch.no_grad():
        return explainer(forward, _pairs(forward, pairs))


@overload
def evaluate(
    classifier: Classifier,
    images: Tensor,
    pairs: PairsLike,
    maps: Tensor,
    metrics: Metrics,
    *,
    masks: Tensor | None = None,
    labels: Tensor | None = None,
    reduce: Literal["pairs", "scores"] = "pairs",
    seed: int = 0,
    method: MethodLike | None = None,
) -> pd.DataFrame: ...


@overload
def evaluate(
    classifier: Classifier,
    images: Tensor,
    pairs: PairsLike,
    maps: Tensor,
    metrics: Metrics,
    *,
    masks: Tensor | None = None,
    labels: Tensor | None = None,
    reduce: Literal["sums"],
    seed: int = 0,
    method: MethodLike | None = None,
) -> Scores: ...


def evaluate(
    classifier: Classifier,
    images: Tensor,
    pairs: PairsLike,
    maps: Tensor,
    metrics: Metrics,
    *,
    masks: Tensor | None = None,
    labels: Tensor | None = None,
    reduce: Literal["pairs", "scores", "sums"] = "pairs",
    seed: int = 0,
    method: MethodLike | None = None,
) -> pd.DataFrame | Scores:
    """Metrics of maps, however they were made.

    Args:
        images: [B, C, H, W], already normalised
        pairs: [P], as given to `explain`
        maps: [P, h, w], raw
        metrics: names (also of groups) and mappings `{name: ..., as: ..., <parameters>}`
        masks: integers [B, H, W] (0 background, label + 1), for metrics that need them. Void is 255 in uint8 and -1 in
            wider types, which more than 254 labels need
        labels: bool [B, L], ground truth
        reduce: "pairs": a row per pair, columns image, label and one per metric (NaN: undefined); "scores": a row per
            metric with value, n, n_undefined and a bootstrap interval; "sums": `Scores`, which add up over batches to
            the scores of all images (a mean of the batches' scores is another number)
        method: what made the maps, for metrics that explain again (robustness, randomisation, adcc): a name, a mapping
            `{name: ..., <parameters>}`, or a function from a Forward and its Pairs to maps

    A metric per image (seeds) has its value in each of the image's rows; in "scores" every image counts once.
    """
    if reduce not in ("pairs", "scores", "sums"):
        raise UsageError(f"reduce {reduce!r}: allowed are pairs, scores and sums")
    bound = parse_metrics(metrics)
    for metric in bound:
        if "masks" in metric.entry.needs and masks is None:
            raise UsageError(f"metric {metric.label} needs masks=")
        if "method" in metric.entry.needs and method is None:
            raise UsageError(f"metric {metric.label} explains again: it needs method=")
    check_images(classifier, images)
    classifier.try_images(images)
    forward = Forward(classifier, images, ground_truth=_ground_truth(masks, labels), seed=seed)
    evaluation = Evaluation(forward, _pairs(forward, pairs), maps, _explain(method))
    with torch.no_grad():
        measured = {metric.label: measure(evaluation, metric) for metric in bound}
    if reduce == "pairs":
        return pair_table(evaluation.pairs, bound, measured)
    rows = {
        label: score_rows(found.image, found.label, found.values, found.statistics) for label, found in measured.items()
    }
    sums = Scores(rows, {metric.label: metric.aggregate for metric in bound}, len(images), seed)
    return sums if reduce == "sums" else sums.table


def run(
    suite: str | Path | Mapping[str, Any] | Suite,
    *,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str = "cpu",
    batch_size: int = 16,
    workers: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    overrides: Sequence[str] = (),
    models: Globs = "*",
    methods: Globs = "*",
    metrics: Globs = "*",
    quick: bool = False,
    fail_fast: bool = False,
    cache: ModelCache | None = None,
) -> Run:
    """Evaluate every missing cell of a suite, write records, scores and leaderboard. `xaibench run` calls this.

    Args:
        suite: a file, the name of a suite that is shipped, or the mapping that such a file would hold
        out: the run's directory; None: `runs/<suite name>`
        data_root: the folder that holds the data sets
        device: of torch
        batch_size: images of a batch; it changes no number beyond rounding
        workers: processes that read samples, 0: a thread of this one; None: as many as help
        limit: only the first samples; the run is marked as partial
        progress: functions that are called while the run works
        overrides: `key=value`, as for `--set`
        models, methods, metrics: labels, or globs of labels, of what is computed. The tables show every cell of the
            suite that is there
        quick: compute only the part that the suite calls representative
        fail_fast: stop at the first error in a method or metric
        cache: keeps models for other runs that are given it; None: one of its own

    Returns:
        The tables, the directory, and what was computed, skipped and failed

    Raises:
        UsageError: a mistake in the suite, or what does not go together
        MissingError: data or weights that are not there
        SampleError: more bad samples than the suite allows
    """
    loaded = suite_of(suite, overrides)
    selection = select(loaded, quick=quick, models=models, methods=methods, metrics=metrics)
    settings = Settings(
        data_root=Path(data_root) if data_root else None,
        suite_folder=loaded.folder,
        device=device,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        fail_fast=fail_fast,
        cache=ModelCache() if cache is None else cache,
    )
    directory = Path(out) if out else default_directory(loaded)
    return run_benchmark(benchmark_of(loaded, settings), directory, settings, progress, selection)


def benchmark(
    models: Models,
    data: Dataset | Any,
    methods: Methods,
    metrics: Metrics,
    *,
    labels: Any = None,
    masks: Any = None,
    class_names: Sequence[str] | None = None,
    explain: PairRule = "detected",
    seed: int = 0,
    name: str = "benchmark",
    title: str = "",
    out: str | Path | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    limit: int | None = None,
    max_bad_samples: int = 0,
    progress: Progress | None = None,
    fail_fast: bool = False,
) -> Run:
    """Evaluate methods on models of your own, or on data of your own, as a suite does: the same records and tables.

    Args:
        models: a `Classifier` or a module, or a mapping from labels to several
        data: a data set (`load_dataset`, `xaibench.data.InMemory`), or images: float32 [N, C, H, W], already normalised,
            or stored images, see `InMemory`
        methods: names, mappings `{name: ..., as: ..., <parameters>}`, and functions from a Forward and its Pairs to maps
            [P, h, w]; one of them, a list, or a mapping from labels
        metrics: names (also of groups) and mappings, as in `evaluate`
        labels: 0 and 1 [N, L]; for images
        masks: integers [N, H, W] as in `evaluate`; for images
        class_names: of the labels; for images
        explain: which pairs: "detected", "present", "predicted" or "target"
        seed: of every random draw
        name, title: of the benchmark, in its tables
        out: the run's directory, which is resumed; None: a temporary one, removed with the Run that is returned
        batch_size, workers, limit, progress, fail_fast: as in `run`
        max_bad_samples: samples that may be unreadable

    Returns:
        The tables, the records, and what was computed, skipped and failed

    Raises:
        UsageError: a wrong name, parameter or argument, or what does not go together
        SampleError: more bad samples than `max_bad_samples`
    """
    dataset = data_of(data, {"labels": labels, "masks": masks, "class_names": class_names}, models, name)
    question = Question(name, title, explain, seed, limit, max_bad_samples)
    asked = python_benchmark(models, dataset, methods, metrics, question)
    settings = Settings(
        device=str(device_of(models)), batch_size=batch_size, workers=workers, limit=limit, fail_fast=fail_fast
    )
    return run_benchmark(asked, Path(out), settings, progress) if out else run_and_forget(asked, settings, progress)


def _ground_truth(masks: Tensor | None, labels: Tensor | None) -> GroundTruth:
    return GroundTruth(mask=masks, present=None if labels is None else labels > 0)


def _explain(method: MethodLike | None) -> Explain | None:
    if method is None or callable(method):
        return method
    given = {"name": method} if isinstance(method, str) else dict(method)
    return Explainer(bound_method(str(given.pop("name", None)), given))


def _pairs(forward: Forward, pairs: PairsLike) -> Pairs:
    if not isinstance(pairs, Pairs):
        if pairs not in ("detected", "present", "predicted", "target"):
            raise UsageError(
                f"pairs {pairs!r}: give xaibench.Pairs(image=[...], label=[...]), or detected, present, predicted or target"
            )
        return Pairs.where(forward.select(pairs))
    pairs.check(len(forward.images), forward.classifier.inspect(forward.images).labels)
    return pairs.to(forward.images.device)
