"""Modules by name: timm's, and the architectures of the bundled models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from xaibench.core.errors import UsageError, unknown
from xaibench.core.registry.bounds import ExtraChannels
from xaibench.core.timm_import import import_timm
from xaibench.core.tracebacks import headline
from xaibench.models.checkpoints import RGB, load_state
from xaibench.models.pretrained import create_pretrained
from xaibench.models.structure import FAULTS

KEYS_OF_THEIR_OWN = ("name", "pretrained", "num_classes", "in_chans", "extra_channels")


def create_module(
    name: str, *, pretrained: bool = False, extra_channels: ExtraChannels | None = None, **options: Any
) -> nn.Module:
    """A timm model, or a bundled architecture (`shapes_vit`), with random weights.

    Args:
        pretrained: let timm fetch its weights (needs a network)
        extra_channels: how fetched weights of three channels become those of `in_chans`; see `stem_for`

    Raises:
        UsageError: no such model, or an option that it does not take
        MissingError: weights that cannot be fetched
    """
    if pretrained and options.get("in_chans", RGB) != RGB:  # timm would use its own rule instead of `extra_channels`
        fetched = create_module(name, pretrained=True, **options | {"in_chans": RGB})
        module = create_module(name, **options)
        load_state(module, fetched.state_dict(), f"weights of {name}", extra_channels=extra_channels)
        return module
    if name in ARCHITECTURES and pretrained:
        raise UsageError(f"model {name!r} has no weights to fetch; give a checkpoint")
    if not known_model(name):
        raise UsageError(unknown("model", name, model_names()))
    try:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name](**options)
        module = create_pretrained(name, **options) if pretrained else import_timm().create_model(name, **options)
    except FAULTS as error:
        message = f"model {name!r} does not take these options: {options} ({headline(error)})"
        raise UsageError(message, key="options") from error
    assert isinstance(module, nn.Module)
    return module


def model_names() -> list[str]:
    """Names that `create_module` takes (timm's without their weight tags)."""
    return [*import_timm().list_models(), *ARCHITECTURES]


def known_model(name: str) -> bool:
    """Whether `create_module` takes this name; timm's may end in a point and the tag of their weights."""
    timm = import_timm()
    if name in ARCHITECTURES or not timm.is_model(name):
        return name in ARCHITECTURES
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return False
    return True


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator (initialisation and drop-out draw from it), and restore it at the end."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def constructor_options(options: Mapping[str, Any], in_chans: int | None) -> dict[str, Any]:
    """Options of `create_module` with the number of input channels.

    Raises:
        UsageError: an option that has a key of its own in suites and recipes
    """
    for key in options:
        if key in KEYS_OF_THEIR_OWN:
            raise UsageError(f"options: {key} is given beside the model's name, not among its options", key="options")
        if key == "checkpoint_path":
            raise UsageError(
                "options: checkpoint_path is not allowed; give checkpoint beside the model's name", key="options"
            )
    return {**options} if in_chans in (None, RGB) else {**options, "in_chans": in_chans}


def shapes_vit(
    num_classes: int = 8,
    img_size: int = 96,
    embed_dim: int = 96,
    depth: int = 3,
    num_heads: int = 4,
    in_chans: int = RGB,
    **options: Any,
) -> nn.Module:
    """timm's VisionTransformer with a class token over the first layers (stem to layer2) of the shapes CNN.

    One token per position of the CNN's 12 x 12 grid: 145 tokens with the class token.
    """
    timm = import_timm()
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed

    stem = timm.create_model("test_resnet", features_only=True, out_indices=(2,), output_stride=8, in_chans=in_chans)
    return VisionTransformer(  # type: ignore[no-any-return]
        img_size=img_size,
        patch_size=1,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        embed_layer=partial(HybridEmbed, backbone=stem),
        **options,
    )


ARCHITECTURES = {"shapes_vit": shapes_vit}
