"""Import timm, also where torchvision's compiled operators do not load.

timm imports torchvision. With a torch of another build (for example a CPU build of torch and the CUDA wheel of torchvision),
torchvision cannot load its compiled library. Its Python side then registers a fake kernel for `torchvision::nms`, an
operator that is not defined, and the import fails with "operator torchvision::nms does not exist". xaibench and timm's
classifiers call none of these operators, so it is enough that their schemas exist.

torchvision is first imported unchanged. The schemas are defined only after this error: to define an operator that
torchvision defines too would end the process.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any

import torch

from xaibench.core.errors import MissingError

KNOWN_ERROR = "operator torchvision::nms does not exist"
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: torch.library.Library | None = None  # schemas live as long as their Library object


def import_timm() -> Any:
    """timm, with torchvision imported before it."""
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation notices of timm's own code, on which a user cannot act
        return import_module("timm")


def import_torchvision() -> None:
    """Import torchvision; where its compiled operators do not load, define their schemas.

    Does nothing where torchvision is imported already, or not installed.

    Raises:
        MissingError: torchvision is installed, but cannot be imported for another reason
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision.io warns about its image library, which is not used
        try:
            import_module("torchvision")
        except ModuleNotFoundError as error:
            if error.name != "torchvision":
                raise
        except RuntimeError as error:
            if KNOWN_ERROR not in str(error):
                raise MissingError(
                    f"torchvision cannot be imported: {error}; install the torchvision that belongs to torch "
                    f"{torch.__version__}"
                ) from error
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]  # half imported
            _define_schemas()
            import_module("torchvision")


def _define_schemas() -> None:
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        _library.define(schema)
