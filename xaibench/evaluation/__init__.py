"""`Evaluation`: one explained batch, memoised, that all metrics share."""

from xaibench.evaluation.evaluation import Evaluation, Explain, Normalise, Space

__all__ = ["Evaluation", "Explain", "Normalise", "Space"]
