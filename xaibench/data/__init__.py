"""Data sets: sequences of `Sample`. One file per data set; `load_dataset` finds them by name.

`InMemory` is imported when it is first used, because it imports torch and listing data sets should not.
"""

from typing import TYPE_CHECKING, Any

from xaibench.data.dataset import Dataset, Sample, dataset, load_dataset
from xaibench.data.reading.image_files import read_image

if TYPE_CHECKING:
    from xaibench.data.in_memory import InMemory

__all__ = ["Dataset", "InMemory", "Sample", "dataset", "load_dataset", "read_image"]


def __getattr__(name: str) -> Any:
    if name != "InMemory":
        raise AttributeError(f"module 'xaibench.data' has no attribute {name!r}")
    from xaibench.data.in_memory import InMemory

    return InMemory
