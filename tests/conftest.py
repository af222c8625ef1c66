"""Fixtures: an empty folder to work in, and the small networks behind the golden arrays."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from tests.support.golden import Golden, GoldenTransformer, load_cnn, load_transformer

hypothesis.settings.register_profile("no clock", deadline=None)  # machines are shared
hypothesis.settings.load_profile("no clock")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in an empty folder: some commands write into the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", params=["open_plain", "open_timm"])
def cnn(request: pytest.FixtureRequest) -> Golden:
    return load_cnn(request.param)


@pytest.fixture(scope="session", params=["open_vit", "open_vit_nonsquare", "open_hybrid"])
def transformer(request: pytest.FixtureRequest) -> GoldenTransformer:
    return load_transformer(request.param)
