"""Data sets: sequences of `Sample`. One file per data set; `load_dataset` finds them by name."""

from xaibench.data.dataset import Dataset, Sample, dataset, load_dataset

__all__ = ["Dataset", "Sample", "dataset", "load_dataset"]
