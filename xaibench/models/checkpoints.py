"""Weights: read without pickled code, fitted to a module, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from xaibench.core.errors import MissingError, UsageError, unknown
from xaibench.core.registry.bounds import ExtraChannels
from xaibench.models.card import KEY, Card

RGB = 3  # input channels of the checkpoints that `extra_channels` starts from


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a torch file opened with `weights_only=True`.

    Raises:
        MissingError: no such file, or one that cannot be read
        UsageError: a file that holds anything but tensors
    """
    if not path.is_file():
        found = "is not a file; give the file of the weights" if path.exists() else "no such file"
        raise MissingError(f"checkpoint {path}: {found}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MissingError(f"checkpoint {path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise UsageError(
            f"checkpoint {path}: not a plain state dict ({type(error).__name__}); save it with "
            "safetensors, or torch.save(model.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not (isinstance(loaded, dict) and all(isinstance(value, Tensor) for value in loaded.values())):
        raise UsageError(f"checkpoint {path}: holds no state dict of tensors")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def read_card(path: Path) -> Card:
    """What a checkpoint was trained for: from its metadata, or from `<stem>.card.json` beside it, or an empty card.

    Raises:
        UsageError: a card that is damaged
    """
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        if text is not None:
            return Card.read(text, f"checkpoint {path}: its metadata {KEY!r}")
    beside = path.with_suffix(".card.json")
    return Card.read(beside.read_text(encoding="utf-8"), str(beside)) if beside.is_file() else Card()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise UsageError(f"checkpoint {path}: not a safetensors file, or a damaged one ({error})") from error
    except OSError as error:
        raise MissingError(f"checkpoint {path}: cannot be read ({error})") from error


def state_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes: the same weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.ndim
            else tensor.detach().cpu().numpy().tobytes()
        )
    return digest.hexdigest()


def load_state(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    origin: str,
    *,
    skip_different: bool = False,
    into: str = "",
    extra_channels: ExtraChannels | None = None,
) -> list[str]:
    """Load weights; returns the names of tensors that were not changed.

    Args:
        origin: of the weights, for messages
        into: dotted name of the submodule that takes the weights; "" is the whole module
        skip_different: leave out entries whose shape differs or that are missing (fine-tuning with a new head);
            otherwise any difference raises UsageError
        extra_channels: how a first convolution of three channels becomes that of a model with another number; see
            `stem_for`. Weights that have the model's number of channels already are loaded as they are

    Raises:
        UsageError: weights that do not fit, or no such submodule
    """
    if into:
        parts = dict(module.named_modules())
        if into not in parts:
            raise UsageError(unknown("part of the model", into, [name for name in parts if name]), key="into")
        module = parts[into]
    own = module.state_dict()
    weights = {
        name: stem_for(value, own[name].shape[1], extra_channels, f"{origin}: {name}")
        if name in own and _is_stem(value, own[name])
        else value
        for name, value in weights.items()
    }
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    left = [name for name in own if name not in fitting]
    extra = [name for name in weights if name not in fitting]
    if not skip_different and (left or extra):
        examples = ", ".join(
            [f"missing {n}" for n in left[:3]] + [f"not wanted or of another shape {n}" for n in extra[:3]]
        )
        why = (
            _other_classes(own, weights)
            or _prefixed(own, weights)
            or (f"{len(left)} missing, {len(extra)} left over ({examples})")
        )
        raise UsageError(f"{origin} does not fit the model: {why}")
    module.load_state_dict(fitting, strict=False)
    return left


def _other_classes(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """A clause for weights that differ in the number of classes alone: in the first dimension of some tensors."""
    if own.keys() != weights.keys():
        return None
    pairs = [(weights[name].shape, own[name].shape) for name in own if weights[name].shape != own[name].shape]
    counts = {(stored[:1], wanted[:1]) for stored, wanted in pairs}
    if len(counts) != 1 or any(stored[1:] != wanted[1:] for stored, wanted in pairs):
        return None
    ((stored, wanted),) = counts
    return f"it has {stored.numel()} classes, not {wanted.numel()}; all else fits"


def _prefixed(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """A clause for weights whose names fit once a prefix is taken away, such as `model.` of a Lightning module."""
    parts = [name.split(".") for name in weights]
    for prefix in sorted({".".join(names[:depth]) + "." for names in parts for depth in range(1, min(len(names), 4))}):
        bare = {name.removeprefix(prefix) for name in weights if name.startswith(prefix)}
        if len(own.keys() & bare) > max(len(own) // 2, len(own.keys() & weights.keys())):
            return f"the names of its weights begin with {prefix!r}; save them without that prefix"
    return None


def _is_stem(stored: Tensor, own: Tensor) -> bool:
    """Whether a convolution differs in its input channels only, and the checkpoint has those of a colour picture."""
    shapes = stored.shape, own.shape
    same = all(len(shape) == 4 for shape in shapes) and shapes[0][:1] + shapes[0][2:] == shapes[1][:1] + shapes[1][2:]
    return same and stored.shape[1] == RGB != own.shape[1]


def stem_for(weight: Tensor, channels: int, rule: ExtraChannels | None, at: str = "stem") -> Tensor:
    """The first convolution's weight [K, 3, h, w] for images of `channels` channels.

    With more than three, the first three keep their weights and each further one is made by the rule; with fewer,
    every one is. `copy_first`: the weights of the first channel (as PNOC does for the four stains of HPA); `mean`: the
    mean over the three; `zero`: the new channel has no effect before training. Nothing is rescaled: a stem of one
    channel by `mean` responds to a grey picture with a third of what the three channels gave.

    Raises:
        UsageError: no rule is given, or the stem would be zero
    """
    if rule is None:
        raise UsageError(
            f"{at} takes {RGB} channels, the model {channels}; say with extra_channels how the stem is made: "
            "copy_first, mean or zero"
        )
    if rule == "zero" and channels < RGB:
        raise UsageError(
            f"{at}: extra_channels: zero would make a stem of {channels} of zeros only; allowed: copy_first, mean"
        )
    made = {"copy_first": weight[:, :1], "mean": weight.mean(1, keepdim=True), "zero": torch.zeros_like(weight[:, :1])}
    kept = [weight] if channels > RGB else []
    return torch.cat([*kept, made[rule].expand(-1, channels - RGB * len(kept), -1, -1)], 1)
