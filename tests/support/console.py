"""The command line, called in this process, and a small suite to call it with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xaibench.cli.app import main

SUITE = """\
name: tiny
dataset: {name: shapes, samples: 3}
models: [{name: test_resnet, input: {size: 64, resize: squash}}]
explain: present
methods: [cam, raw_attention]
metrics: [average_drop, sparseness]
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run `xaibench` with arguments; its exit code."""
    monkeypatch.setattr(sys, "argv", ["xaibench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)
