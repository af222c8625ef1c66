"""What a network is made of: its target layer, its linear head, its activations as grids, its evaluation mode.

Everything here is a function of an `nn.Module`, which keeps its modes, its weights and its hooks.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.core.errors import IncompatibleError, UsageError

# what a network raises, when it is made or run, where an option or an image is not what it expects
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
LINEAR_HEAD_TOLERANCE = 1e-4  # of the largest logit: float32 rounding of a sum over a few thousand channels
# by class name, because timm has classes of its own beside torch's
NOT_RELU = frozenset([
    "CELU", "ELU", "GELU", "GELUTanh", "GELUTan", "HardMish", "HardMishMe", "HardSigmoid", "HardSigmoidMe", "HardSwish",
    "HardSwishMe", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "MishMe",
    "PReLU", "QuickGELU", "RReLU", "RadixSoftmax", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softplus",
    "Softsign", "Swish", "SwishMe", "Tanh",
])  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """What one forward pass shows of a network.

    Attributes:
        target_layer: dotted name of the layer that is called "last" in suites
        head: dotted name of the linear layer [L, K], where logits are linear in the mean of the target layer; else None
        labels: L, the length of the logits
    """

    target_layer: str
    head: str | None
    labels: int


# Structures of one module, by the layer that the user named and the shape [C, H, W] of the image.
Structures = dict[tuple[str | None, tuple[int, ...]], Structure]


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen weights; modes and `requires_grad` are restored at the end."""
    modules = [(m, m.training) for m in module.modules()]
    parameters = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.eval()
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for m, training in modules:
            m.training = training
        for parameter, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)


def output_logits(output: Any) -> Tensor:
    """Logits [B, L] from what a model returned (tensor, tuple, or an object with `.logits`)."""
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"the model returned {shape}; logits [B, L] are needed")
    return output


# -- target layer and head ------------------------------------------------------------------------------------------


def find_structure(module: nn.Module, layer: str | None, image: Tensor) -> Structure:
    """Find the target layer and check the head, by running one image [1, C, H, W].

    Args:
        layer: dotted name of the target layer; None: the features before pooling

    Raises:
        UsageError: no logits [B, L], or no layer with a spatial grid
    """
    outputs: dict[str, Tensor] = {}  # in order of completion: the last of several equal tensors is the outermost

    def see(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.pop(name, None)
            outputs[name] = output

    named = {name: m for name, m in module.named_modules() if name}
    backbone: list[str] = []
    with _watching(named, see), evaluation_mode(module), torch.no_grad():
        if hasattr(module, "forward_features") and module.forward_features(image) is not None:  # type: ignore[operator]
            backbone = list(outputs)
        logits = output_logits(module(image))
    target_layer = layer or _find_target_layer(module, outputs, backbone)
    head = None
    if target_layer in outputs and outputs[target_layer].ndim in (3, 4):
        with contextlib.suppress(IncompatibleError):
            head = _find_linear_head(module, outputs, grid(module, outputs[target_layer], image), logits)
    return Structure(target_layer, head, logits.shape[1])


def _find_target_layer(module: nn.Module, outputs: Mapping[str, Tensor], backbone: list[str]) -> str:
    """The features before pooling: the module that ends timm's `forward_features`, else the last grid."""
    if getattr(module, "global_pool", None) == "token" and hasattr(module, "blocks"):
        return f"blocks.{len(module.blocks) - 1}.norm1"  # type: ignore[arg-type]
    if backbone:
        return backbone[-1]
    grids = [name for name, output in outputs.items() if output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1]
    if not grids:
        raise UsageError("no layer with a spatial grid was found; name one with layer=")
    return grids[-1]


def _find_linear_head(module: nn.Module, outputs: Mapping[str, Tensor], features: Tensor, logits: Tensor) -> str | None:
    """The linear layer that maps the mean of `features` [1, K, h, w] to the logits; None if there is none."""
    for name, candidate in module.named_modules():
        if not isinstance(candidate, (nn.Linear, nn.Conv2d)) or name not in outputs:
            continue
        weight = candidate.weight.detach().flatten(1)
        if weight.shape != (logits.shape[1], features.shape[1]):
            continue
        predicted = features.mean((2, 3)) @ weight.T + (0 if candidate.bias is None else candidate.bias.detach())
        if float((predicted - logits).abs().max()) <= LINEAR_HEAD_TOLERANCE * max(float(logits.abs().max()), 1.0):
            return str(name)
    return None


@contextlib.contextmanager
def _watching(modules: Mapping[str, nn.Module], see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `see(name, output)` each time one of `modules` has run."""

    def hook(name: str) -> Any:
        return lambda _, __, output: see(name, output)

    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        yield


# -- activations as grids -------------------------------------------------------------------------------------------


def grid(module: nn.Module, captured: Tensor, images: Tensor) -> Tensor:
    """A captured activation (or its gradient) as [B, K, h, w]: prefix tokens dropped, channels first."""
    if captured.ndim == 4:
        return captured.permute(0, 3, 1, 2) if _channels_last(module) else captured
    if captured.ndim == 3:
        return tokens_to_grid(module, captured[:, _prefix_tokens(module) :].transpose(1, 2), images)
    raise IncompatibleError(
        f"a layer of shape {tuple(captured.shape)} has no spatial grid; choose a layer before pooling"
    )


def tokens_to_grid(module: nn.Module, tokens: Tensor, images: Tensor) -> Tensor:
    """[..., P] patch tokens as [..., h, w], row by row."""
    patches, (height, width) = tokens.shape[-1], images.shape[-2:]
    embed = getattr(module, "patch_embed", None)
    h, w = getattr(embed, "grid_size", None) or (0, 0)
    if getattr(module, "dynamic_img_size", False):
        h, w = embed.dynamic_feat_size((height, width))  # type: ignore[union-attr, operator]
    if h * w != patches:  # another size than the model's own: the grid has the image's aspect
        h = round((patches * height / width) ** 0.5)
        w = patches // max(h, 1)
    if h * w != patches:
        raise IncompatibleError(f"{patches} tokens form no grid for a {height}x{width} image")
    return tokens.reshape(*tokens.shape[:-1], h, w)


def ungrid(module: nn.Module, features: Tensor, captured: Tensor) -> Tensor:
    """Activations [n, K, h, w] in the layout of a layer's own output; prefix tokens are those of `captured`."""
    if captured.ndim == 4:
        return features.permute(0, 2, 3, 1) if _channels_last(module) else features
    prefix = captured[:, : _prefix_tokens(module)].expand(len(features), -1, -1)
    return torch.cat([prefix, features.flatten(2).transpose(1, 2)], 1)


def _channels_last(module: nn.Module) -> bool:
    return str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC")


def _prefix_tokens(module: nn.Module) -> int:
    return int(getattr(module, "num_prefix_tokens", 0))


# -- parts ----------------------------------------------------------------------------------------------------------


def has_only_relu(module: nn.Module) -> bool:
    """Whether no activation function is another one than ReLU."""
    return not any(type(m).__name__ in NOT_RELU for m in module.modules())


def stages(module: nn.Module, target_layer: str, images: Tensor) -> list[str]:
    """The cuts of a network: "input", then the parts that return a grid, in order of execution.

    Parts are the model's own children, and in place of a container (nn.Sequential, nn.ModuleList) what it contains.
    Those that leave sum A g as it is (ReLU, max-pooling, convolutions without bias) are no cuts of their own.

    Args:
        target_layer: in a transformer, a part has a grid if it returns as many tokens as this layer
        images: [B, C, H, W], the first of which is run
    """
    parts = _parts(module)
    ran: list[str] = []
    shapes: dict[str, torch.Size] = {}

    def see(name: str, output: Any) -> None:
        ran.append(name)
        if isinstance(output, Tensor):
            shapes[name] = output.shape

    watched = {**parts, "": module.get_submodule(target_layer)}
    with _watching(watched, see), evaluation_mode(module), torch.no_grad():
        module(images[:1])

    def has_grid(name: str) -> bool:
        shape = shapes.get(name, torch.Size())
        if len(shape) == 4:
            return grid(module, torch.empty(shape, device="meta"), images).shape[-2:].numel() > 1
        return len(shape) == 3 == len(shapes[""]) and shape[1] == shapes[""][1]

    def changes_the_sum(name: str) -> bool:
        biased = any(key.endswith("bias") for key, _ in parts[name].named_parameters())
        return biased or not has_only_relu(parts[name])

    times = Counter(ran)
    return ["input", *(n for n in ran if n and times[n] == 1 and changes_the_sum(n) and has_grid(n))]


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    """Children by dotted name, and in place of a container what it contains."""
    parts: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        inside = dict(child.named_children()) if isinstance(child, nn.Sequential | nn.ModuleList) else {}
        parts |= {f"{name}.{key}": part for key, part in inside.items()} or {name: child}
    return parts


def batch_norm_affine(norm: nn.BatchNorm2d, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Scale and shift [K] of a batch normalisation in evaluation mode: it maps x + bias to scale x + shift.

    Args:
        bias: [K], of the convolution before it
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = (bias - norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach()
