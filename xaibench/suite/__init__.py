"""`Suite`: what is measured. The only package that reads the file format.

A suite says WHAT is measured; batch size, device and paths belong to the command line. One report lists every problem
of a file with its line: unknown and duplicate keys, unknown names, wrong parameters, methods that fit no model, metrics
that need what the data set lacks.
"""

from xaibench.suite.load import find_suite, load_suite, read_suite, shipped_suites, suite_of
from xaibench.suite.schema import (
    MetricNamed,
    ModelSection,
    Suite,
    bind_metrics,
    parse_method,
    parse_metrics,
)
from xaibench.suite.selection import Globs, Selection, choose, select

__all__ = [
    "Globs", "MetricNamed", "ModelSection", "Selection", "Suite", "bind_metrics", "choose", "find_suite",
    "load_suite", "parse_method", "parse_metrics", "read_suite", "select", "shipped_suites", "suite_of",
]  # fmt: skip
