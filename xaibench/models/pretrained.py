"""Weights that timm fetches. Whether they can be fetched is checked once, before timm retries for a minute."""

from __future__ import annotations

from typing import Any

from torch import nn

from xaibench.core.errors import MissingError, UsageError
from xaibench.core.timm_import import import_timm

SECONDS = 5  # to the first answer of the server
FILES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for


def create_pretrained(name: str, **options: Any) -> nn.Module:
    """timm's model with timm's weights, from the local cache or the network.

    Raises:
        UsageError: the model has no such weights
        MissingError: the weights are not in the cache, and cannot be fetched
    """
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UsageError(f"model {name!r} has no weights to fetch; give a checkpoint")
    if config.hf_hub_id and not config.file:
        _check_server(name, config.hf_hub_id, config.hf_hub_filename)
    try:
        module = timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        raise MissingError(_message(name, str(error).split("\n")[0])) from error
    assert isinstance(module, nn.Module)
    return module


def _check_server(name: str, repository: str, filename: str | None) -> None:
    """Ask the server once: timm fetches with huggingface_hub, whose retries take a minute and cannot be configured.

    Raises:
        MissingError: the server does not answer, and the weights are not in the local cache
    """
    import huggingface_hub

    files = [filename] if filename else FILES
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        huggingface_hub.get_session().head(huggingface_hub.hf_hub_url(repository, files[0]), timeout=SECONDS)
    except Exception as error:  # the client's own classes, which differ between its versions
        raise MissingError(_message(name, f"{type(error).__name__}: {error}")) from error


def _message(name: str, reason: str) -> str:
    return f"the weights of {name!r} could not be fetched ({reason}); connect to a network, or give a checkpoint"
