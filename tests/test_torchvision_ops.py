"""`import timm` works with and without torchvision's compiled operators, and nothing whole is touched."""

from __future__ import annotations

import subprocess
import sys

import torch

from xaibench.torchvision_ops import SCHEMAS, ensure_torchvision_schemas


def test_timm_imports_and_the_operators_have_schemas() -> None:
    from xaibench.models import import_timm

    assert import_timm().__version__
    for name in SCHEMAS:
        assert hasattr(torch.ops.torchvision, name)


def test_a_second_call_defines_nothing_more() -> None:
    assert ensure_torchvision_schemas() == ensure_torchvision_schemas()


def test_schemas_that_are_there_are_left_alone() -> None:
    """As where the real operators load: defined first by someone else, then nothing is missing."""
    code = (
        "import torch\n"
        "from xaibench import torchvision_ops as ops\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define(ops.SCHEMAS['nms'])\n"
        "ops._compiled_operators_load = lambda: False\n"
        "print(ops.ensure_torchvision_schemas())\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "('qnms',)"
