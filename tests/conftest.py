"""Fixtures: the small networks behind the golden arrays."""

from __future__ import annotations

import hypothesis
import pytest

from tests.support.golden import Golden, GoldenTransformer, load_cnn, load_transformer

hypothesis.settings.register_profile("no clock", deadline=None)  # machines are shared
hypothesis.settings.load_profile("no clock")


@pytest.fixture(scope="session", params=["open_plain", "open_timm"])
def cnn(request: pytest.FixtureRequest) -> Golden:
    return load_cnn(request.param)


@pytest.fixture(scope="session", params=["open_vit", "open_vit_nonsquare", "open_hybrid"])
def transformer(request: pytest.FixtureRequest) -> GoldenTransformer:
    return load_transformer(request.param)
