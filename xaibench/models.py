"""Modules by name: timm's, and the architectures of the bundled models. Checkpoints are loaded without pickled code."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import MissingError, UsageError, unknown
from xaibench.torchvision_ops import ensure_torchvision_schemas


def create_module(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """A timm model, or a bundled architecture (`shapes_vit`), with random weights.

    Args:
        pretrained: let timm fetch its weights (needs a network)

    Raises:
        UsageError: no such model, or an option that it does not take
    """
    if name in ARCHITECTURES and pretrained:
        raise UsageError(f"model {name!r} has no weights to fetch; give a checkpoint")
    if name in ARCHITECTURES:
        return ARCHITECTURES[name](**options)
    timm = import_timm()
    if not known_model(name):
        raise UsageError(unknown("model", name, model_names()))
    try:
        module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        raise UsageError(f"model {name!r} does not take these options: {options} ({error})") from error
    assert isinstance(module, nn.Module)
    return module


def model_names() -> list[str]:
    """Names that `create_module` takes (timm's without their weight tags)."""
    return [*import_timm().list_models(), *ARCHITECTURES]


def known_model(name: str) -> bool:
    return name in ARCHITECTURES or bool(import_timm().is_model(name))


def import_timm() -> Any:
    """timm, also where torchvision's compiled operators do not load."""
    ensure_torchvision_schemas()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's own deprecation notices are not the user's
        import timm
    return timm


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator seeded inside (initialisation and drop-out draw from it), as it was outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def shapes_vit(
    num_classes: int = 8, img_size: int = 96, embed_dim: int = 96, depth: int = 3, num_heads: int = 4, **options: Any
) -> nn.Module:
    """timm's VisionTransformer with a class token over the first layers (stem to layer2) of the shapes CNN.

    One token per position of the CNN's 12 x 12 grid: 145 tokens with the class token.
    """
    timm = import_timm()
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed

    stem = timm.create_model("test_resnet", features_only=True, out_indices=(2,), output_stride=8)
    return VisionTransformer(  # type: ignore[no-any-return]
        img_size=img_size,
        patch_size=1,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        embed_layer=partial(HybridEmbed, backbone=stem),
        **options,
    )


ARCHITECTURES = {"shapes_vit": shapes_vit}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a torch file opened with `weights_only=True`.

    Raises:
        MissingError: no such file
        UsageError: a file that holds anything but tensors
    """
    if not path.is_file():
        raise MissingError(f"checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
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


def load_checkpoint(module: nn.Module, path: Path, *, skip_different: bool = False, into: str = "") -> list[str]:
    """Load weights; returns the names that were left as they were.

    Args:
        into: dotted name of the submodule that takes the weights; "" is the whole module
        skip_different: leave out entries whose shape differs or that are missing (fine-tuning with a new head);
            otherwise any difference raises UsageError
    """
    if into:
        module = module.get_submodule(into)
    weights, own = read_checkpoint(path), module.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    left = [name for name in own if name not in fitting]
    extra = [name for name in weights if name not in fitting]
    if not skip_different and (left or extra):
        examples = ", ".join([f"missing {n}" for n in left[:3]] + [f"not wanted or of another shape {n}" for n in extra[:3]])
        raise UsageError(f"checkpoint {path} does not fit the model: {len(left)} missing, {len(extra)} left over ({examples})")
    module.load_state_dict(fitting, strict=False)
    return left
