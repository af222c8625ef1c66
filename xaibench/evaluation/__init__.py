"""`Evaluation`: one explained batch, memoised, that all metrics share."""

from xaibench.evaluation.evaluation import Evaluation, Explainer, Labels, Normalise, Probe, Space, unit

__all__ = ["Evaluation", "Explainer", "Labels", "Normalise", "Probe", "Space", "unit"]
