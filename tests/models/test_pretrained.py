"""Weights that timm fetches, without a network: the local cache, or one sentence at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.console import SUITE, call
from xaibench.core.errors import MissingError, UsageError
from xaibench.core.timm_import import import_timm
from xaibench.models import architectures, pretrained
from xaibench.models.architectures import create_module, known_model

pytestmark = pytest.mark.usefixtures("empty_folder")


class Session:
    """A client that counts its calls and reaches nothing, or anything."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.asked = error, []  # type: ignore[var-annotated]

    def head(self, url: str, timeout: float) -> None:
        self.asked.append((url, timeout))
        if self.error is not None:
            raise self.error


def connect(monkeypatch: pytest.MonkeyPatch, error: Exception | None, cached: bool = False) -> Session:
    import huggingface_hub

    session = Session(error)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    found = "/cache/model.safetensors" if cached else None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: found)
    return session


def fetched(monkeypatch: pytest.MonkeyPatch, answer: nn.Module | Exception) -> None:
    """Let timm answer a request for weights with `answer`: return the module, or raise the error."""

    def create(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        assert pretrained
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(import_timm(), "create_model", create)


def test_without_a_network_it_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = connect(monkeypatch, ConnectionError("name or service not known"))
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE.replace("{name: test_resnet,", "{name: test_resnet, pretrained: true,"))
    assert call(monkeypatch, "run", suite, "--out", tmp_path / "run", "--progress", "none") == 4
    assert capsys.readouterr().err == (
        f"error: {suite}:3:10: the weights of 'test_resnet' could not be fetched (ConnectionError: name or service not "
        "known); connect to a network, or give a checkpoint\n"
    )
    assert session.asked == [("https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors", 5)]


def test_with_a_network_timm_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(1, 1)
    fetched(monkeypatch, module)
    session = connect(monkeypatch, None)
    assert create_module("test_resnet", pretrained=True) is module
    assert len(session.asked) == 1


def test_weights_of_the_cache_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(1, 1)
    fetched(monkeypatch, module)
    session = connect(monkeypatch, ConnectionError("asked"), cached=True)
    assert create_module("test_resnet", pretrained=True) is module
    assert not session.asked


def test_a_download_that_breaks_off_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched(monkeypatch, OSError("Consistency check failed\nfile should be of size 9"))
    connect(monkeypatch, None)
    with pytest.raises(MissingError, match=r"could not be fetched \(Consistency check failed\); connect"):
        create_module("test_resnet", pretrained=True)


def test_models_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_check_server", lambda *_: pytest.fail("asked"))
    with pytest.raises(UsageError, match="'resnet200' has no weights to fetch; give a checkpoint"):
        create_module("resnet200", pretrained=True)


def test_tags_of_weights_are_a_part_of_the_name() -> None:
    assert known_model("resnet18")
    assert known_model("resnet18.a1_in1k")
    assert not known_model("resnet18.no_such_tag")
    assert known_model("shapes_vit")
    with pytest.raises(UsageError, match=r"unknown model 'resnet18\.no_such_tag'"):
        create_module("resnet18.no_such_tag")
    assert torch.is_tensor(next(architectures.create_module("test_resnet").parameters()))
