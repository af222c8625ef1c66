"""Classifiers by name: a bundled or timm model, its checkpoint, its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xaibench.core.errors import UsageError, about
from xaibench.core.registry.bounds import ExtraChannels
from xaibench.core.timm_import import import_timm
from xaibench.data.preprocess import Preprocess
from xaibench.models import bundled
from xaibench.models.architectures import constructor_options, create_module, seeded
from xaibench.models.card import Card, InputSection
from xaibench.models.checkpoints import RGB, load_state, read_card, read_checkpoint, state_hash
from xaibench.models.classifier import Activation, Classifier
from xaibench.models.model_cache import Identity, ModelCache, Shared

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def load_classifier(
    name: str,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
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

    A checkpoint that `xaibench train` wrote holds its class names and its input, which are taken from it.

    Args:
        name: see `xaibench list models`
        num_classes: length of the logits; None: that of the class names, or else the model's own
        class_names: names of the labels, compared with those that the checkpoint was trained on; None: those
        checkpoint: safetensors, or a torch file holding a plain state dict (opened with weights_only=True)
        pretrained: let timm fetch its weights (needs a network)
        input: any of size, resize, mean, std, crop, interpolation; the rest comes from the checkpoint, or else from the
            model's own configuration
        in_chans: number of input channels; None: 3
        extra_channels: the rule by which mean, std and the first convolution of a checkpoint of three channels are
            made for another number (`copy_first`, `mean`, `zero`: see `xaibench.models.checkpoints.stem_for`). A
            checkpoint that has `in_chans` channels is loaded as it is, and then the rule is that of mean and std alone
        options: passed to the model's constructor
        precision: of weights and images, and so of maps and scores; float64 is slower
        seed: of the random weights of an untrained model
        cache: shares modules among classifiers that do not change them; None: a module of its own

    Raises:
        UsageError, MissingError: an unknown name, an option it does not take, a checkpoint that is absent or unfit, or
            was trained on other classes
    """
    given = InputSection.of(input or {})
    if name in bundled.names():
        weights = _bundled_weights(name, num_classes, checkpoint, in_chans, options)
        architecture, chosen, pretrained = weights.card.architecture, {**weights.card.options}, False
    else:
        weights = Weights(None, Card(), f"model {name}") if checkpoint is None else _read(checkpoint)
        architecture, chosen = name, constructor_options(options or {}, in_chans)
    names = _class_names(weights, class_names, num_classes)
    if count := num_classes or len(names):
        chosen["num_classes"] = count
    blueprint = Blueprint(
        architecture, chosen, weights, pretrained, extra_channels, torch.device(device), precision, seed
    )
    shared = Shared(blueprint.build()) if cache is None else cache.get(blueprint.identity(), blueprint.build)
    preprocess = given.over(weights.card.input.over(_configured(shared.module)))
    return Classifier(
        shared.module,
        activation=activation,
        layer=layer,
        threshold=threshold,
        preprocess=preprocess.for_channels(in_chans or RGB, extra_channels),
        name=name,
        class_names=names,
        trained=weights.tensors is not None or pretrained,
        structures=shared.structures,
    )


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint (None: there is none), what they were trained for, and their origin for messages."""

    tensors: Mapping[str, Tensor] | None
    card: Card
    origin: str


def _read(checkpoint: str | Path) -> Weights:
    with about("checkpoint"):
        path = Path(checkpoint)
        return Weights(read_checkpoint(path), read_card(path), f"checkpoint {checkpoint}")


def _bundled_weights(
    name: str,
    num_classes: int | None,
    checkpoint: str | Path | None,
    in_chans: int | None,
    options: Mapping[str, Any] | None,
) -> Weights:
    """Weights and card of a bundled model; those of a checkpoint for the same architecture, where one is given."""
    card = bundled.card(name)
    if num_classes not in (None, len(card.classes)):
        raise UsageError(f"model {name} has {len(card.classes)} classes, not {num_classes}")
    if in_chans not in (None, RGB):
        raise UsageError(f"model {name} takes {RGB} channels, not {in_chans}")
    if options:
        raise UsageError(f"model {name} is bundled and has its own options; remove options", key="options")
    if checkpoint is None:
        return Weights(read_checkpoint(bundled.weights(name)), card, f"model {name}")
    other = _read(checkpoint)
    return replace(other, card=card.retrained(other.card))


def _class_names(weights: Weights, wanted: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...]:
    """The names of the labels, compared with those of the weights; () where they are not known."""
    if wanted is None:
        return weights.card.classes if num_classes in (None, len(weights.card.classes)) else ()
    if num_classes not in (None, len(wanted)):
        raise UsageError(f"num_classes is {num_classes}, but there are {len(wanted)} class names; give one of the two")
    with about("checkpoint"):
        weights.card.check_classes(wanted, weights.origin)
    return tuple(wanted)


@dataclass(frozen=True)
class Blueprint:
    """Everything that decides a module."""

    architecture: str
    options: Mapping[str, Any]
    weights: Weights
    pretrained: bool
    extra_channels: ExtraChannels | None  # decides the stem that weights of three channels get
    device: torch.device
    precision: Literal["float32", "float64"]
    seed: int

    def build(self) -> nn.Module:
        """A new module. Raises UsageError for options or weights that do not fit."""
        with seeded(self.seed):
            module = create_module(
                self.architecture, pretrained=self.pretrained, extra_channels=self.extra_channels, **self.options
            )
        if self.weights.tensors is not None:
            with about("checkpoint"):
                load_state(module, self.weights.tensors, self.weights.origin, extra_channels=self.extra_channels)
        return module.to(self.device, DTYPES[self.precision])

    def identity(self) -> Identity:
        """What decides whether two modules are equal, in a form that can be compared."""
        options = repr([*sorted(self.options.items()), self.extra_channels, self.precision])
        weights = "timm's" if self.pretrained else f"random, seed {self.seed}"
        if self.weights.tensors is not None:
            weights = state_hash(self.weights.tensors)
        return Identity(self.architecture, options, weights, self.device)


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
