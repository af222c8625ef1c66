"""Makes `import torchvision` (and so `import timm`) work where its compiled operators do not load.

A CPU build of torch beside the torchvision wheel of PyPI cannot load `torchvision/_C.so`; the Python side of
torchvision then registers a fake kernel for `torchvision::nms`, an operator that nobody defined, and dies with
"operator torchvision::nms does not exist". xaibench calls neither operator, so it is enough that their schemas exist.

`ensure_torchvision_schemas()` must run before the first import of torchvision; importing `xaibench` in any way that
reaches timm does so. Where the real operators are there, nothing is defined.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from functools import cache
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_library: torch.library.Library | None = None  # schemas live as long as their Library object


@cache
def ensure_torchvision_schemas() -> tuple[str, ...]:
    """Define the missing operator schemas and return their names, () where torchvision is whole or absent."""
    global _library
    if "torchvision" in sys.modules or _compiled_operators_load():
        return ()
    missing = tuple(name for name in SCHEMAS if not _defined(name))
    if missing:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            _library.define(SCHEMAS[name])
    return missing


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to repair
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    libraries = [Path(spec.origin).parent / f"_C{suffix}" for suffix in suffixes]
    for library in filter(Path.exists, libraries):
        try:
            torch.ops.load_library(library)
        except OSError:  # built for another torch: the symbols it wants are not there
            return False
        return True
    return False


def _defined(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel(f"torchvision::{name}")) or f"torchvision::{name}" in {
        schema.name for schema in torch._C._jit_get_all_schemas()
    }
