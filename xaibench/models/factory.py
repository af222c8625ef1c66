"""Classifiers by name: a bundled or timm model, its checkpoint, its input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from xaibench.core.errors import UsageError, about
from xaibench.core.timm_import import import_timm
from xaibench.data.preprocess import ExtraChannels, Preprocess
from xaibench.models import bundled
from xaibench.models.architectures import constructor_options, create_module, seeded
from xaibench.models.checkpoints import RGB, load_state, read_checkpoint, state_hash
from xaibench.models.classifier import Activation, Classifier
from xaibench.models.structure import Structures

if TYPE_CHECKING:
    from xaibench.models.model_cache import ModelCache

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def load_classifier(
    name: str,
    *,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    activation: Activation = "sigmoid",
    layer: str | None = None,
    threshold: float = 0.5,
    input: dict[str, Any] | None = None,
    in_chans: int | None = None,
    extra_channels: ExtraChannels | None = None,
    options: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    cache: ModelCache | None = None,
) -> Classifier:
    """A bundled model (`shapes-resnet`, `shapes-vit`) or a timm model, ready for explanation.

    Args:
        name: see `xaibench list models`
        num_classes: length of the logits; None: the model's own
        checkpoint: safetensors, or a torch file holding a plain state dict (opened with weights_only=True)
        pretrained: let timm fetch its weights (needs a network)
        input: any of size, resize, mean, std, crop, interpolation; the rest comes from the model's own configuration
        in_chans: number of input channels; None: 3
        extra_channels: the rule by which mean, std and the first convolution of a checkpoint of three channels are
            made for another number (`copy_first`, `mean`, `zero`: see `xaibench.models.checkpoints.stem_for`). A
            checkpoint that has `in_chans` channels is loaded as it is, and then the rule is that of mean and std alone
        options: passed to the model's constructor
        precision: of weights and images, and so of maps and scores; float64 is slower
        seed: of the random weights of an untrained model
        cache: shares modules among classifiers that do not change them; None: a module of its own

    Raises:
        UsageError, MissingError: an unknown name, an option it does not take, a checkpoint that is absent or unfit
    """
    from xaibench.models.model_cache import Identity

    own = name in bundled.names()
    if own:
        recipe = bundled.recipe(name)
        if num_classes not in (None, len(bundled.classes(name))):
            raise UsageError(f"model {name} has {len(bundled.classes(name))} classes, not {num_classes}")
        if in_chans not in (None, RGB):
            raise UsageError(f"model {name} takes {RGB} channels, not {in_chans}")
        architecture, chosen = recipe.model.name, dict(recipe.model.options)
        num_classes, pretrained = len(bundled.classes(name)), False
        checkpoint = checkpoint or bundled.weights(name)
    else:
        architecture, chosen = name, constructor_options(options or {}, in_chans)
    if num_classes is not None:
        chosen["num_classes"] = num_classes
    with about("checkpoint"):
        state = None if checkpoint is None else read_checkpoint(Path(checkpoint))

    def build() -> nn.Module:
        with seeded(seed):
            module = create_module(architecture, pretrained=pretrained, extra_channels=extra_channels, **chosen)
        if state is not None:
            with about("checkpoint"):
                load_state(module, state, f"checkpoint {checkpoint}", extra_channels=extra_channels)
        return module.to(device, DTYPES[precision])

    structures: Structures | None = None
    if cache is None:
        module = build()
    else:
        spelled = repr(
            [*sorted(chosen.items()), extra_channels, precision]
        )  # the rule decides the stem that weights get
        source = state_hash(state) if state is not None else "timm's" if pretrained else f"random, seed {seed}"
        shared = cache.get(Identity(architecture, spelled, source, torch.device(device)), build)
        module, structures = shared.module, shared.structures
    preprocess = recipe.input.preprocess() if own else _configured(module)
    return Classifier(
        module,
        activation=activation,
        layer=layer,
        threshold=threshold,
        preprocess=_adjust(preprocess, input or {}).for_channels(in_chans or RGB, extra_channels),
        name=name,
        trained=checkpoint is not None or pretrained,
        structures=structures,
    )


def _configured(module: nn.Module) -> Preprocess:
    """The input that a timm model is configured for."""
    config = import_timm().data.resolve_data_config(model=module)
    return Preprocess(
        size=tuple(config["input_size"][1:]),
        resize="shortest_crop",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop=config["crop_pct"],
        interpolation=config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic",
    )


def _adjust(preprocess: Preprocess, given: dict[str, Any]) -> Preprocess:
    changes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    if isinstance(changes.get("size"), int):
        changes["size"] = (changes["size"], changes["size"])
    return replace(preprocess, **changes)
