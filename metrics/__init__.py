"""Metrics, one file per family. A metric is `f(evaluation, *, ...) -> Tensor`: one value per pair."""
