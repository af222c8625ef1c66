"""xaibench: attribution methods and metrics for multi-label explanation, run from YAML suites to leaderboards.

The names below are the public interface; they are imported when first used, so that `import xaibench` is cheap.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xaibench.api import benchmark, evaluate, explain, run
    from xaibench.core.pairs import Pairs
    from xaibench.core.registry import dataset, method, metric
    from xaibench.data import Dataset, Sample, load_dataset
    from xaibench.evaluation import Evaluation
    from xaibench.forward import Forward
    from xaibench.models.classifier import Classifier
    from xaibench.models.factory import load_classifier
    from xaibench.results.accumulated import Scores

try:
    __version__ = version("xaibench")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "benchmark": "api",
    "explain": "api",
    "evaluate": "api",
    "run": "api",
    "Classifier": "models.classifier",
    "load_classifier": "models.factory",
    "Dataset": "data",
    "Sample": "data",
    "load_dataset": "data",
    "Evaluation": "evaluation",
    "Forward": "forward",
    "Pairs": "core.pairs",
    "dataset": "core.registry",
    "Scores": "results.accumulated",
    "method": "core.registry",
    "metric": "core.registry",
}

__all__ = [
    "Classifier",
    "Dataset",
    "Evaluation",
    "Forward",
    "Pairs",
    "Sample",
    "Scores",
    "__version__",
    "benchmark",
    "dataset",
    "evaluate",
    "explain",
    "load_classifier",
    "load_dataset",
    "method",
    "metric",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xaibench' has no attribute {name!r}")
    return getattr(import_module(f"xaibench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
