"""A model prepared for explanation: activation, target layer, linear head, attention, input geometry.

The user's module stays as it was found: no hook, no `.grad`, no changed `training` or `requires_grad` outlives a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from xaibench.attention import Attention, find_attention, find_blocks, find_patch_embedding
from xaibench.chunks import map_chunks
from xaibench.errors import IncompatibleError, MissingError, UsageError, closest
from xaibench.models import (
    STEM,
    create_module,
    import_timm,
    load_state,
    read_checkpoint,
    seeded,
    state_hash,
    stem_options,
)
from xaibench.preprocess import ExtraChannels, Preprocess

if TYPE_CHECKING:
    from xaibench.model_cache import Identity, ModelCache

Activation = Literal["sigmoid", "softmax"]
LINEAR_HEAD_TOLERANCE = 1e-4  # of the largest logit: float32 rounding of a sum over a few thousand channels

# by class name, for timm has classes of its own beside torch's
NOT_RELU = frozenset([
    "CELU", "ELU", "GELU", "GELUTanh", "GELUTan", "HardMish", "HardMishMe", "HardSigmoid", "HardSigmoidMe", "HardSwish",
    "HardSwishMe", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "MishMe",
    "PReLU", "QuickGELU", "RReLU", "RadixSoftmax", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softplus",
    "Softsign", "Swish", "SwishMe", "Tanh",
])  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """What one look at a forward pass tells: the target layer and, where the head is linear, its matrix [L, K]."""

    last: str
    head: str | None


# Looks at one module, by the layer that was named and the shape [C, H, W] of the image.
Anatomies = dict[tuple[str | None, tuple[int, ...]], Anatomy]


class Classifier:
    """Any `nn.Module` that maps images [B, C, H, W] to logits [B, L].

    Args:
        module: the model; timm models are understood best, any module works
        activation: how logits become probabilities: "sigmoid" (multi-label) or "softmax"
        layer: dotted name of the target layer ("last" in suites); None: the features before pooling are found. For
            transformers that read a class token it is the input of the last block's attention (its `norm1`), the
            deepest place where patch tokens still reach the logits
        threshold: a label is detected where its probability is > threshold
        preprocess: input geometry and normalisation; None: images are taken as they come
        name: for records and messages
        trained: False marks a model without a checkpoint; leaderboards say so
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        activation: Activation = "sigmoid",
        layer: str | None = None,
        threshold: float = 0.5,
        preprocess: Preprocess | None = None,
        name: str | None = None,
        trained: bool = True,
    ) -> None:
        if activation not in ("sigmoid", "softmax"):
            raise UsageError(f"activation {activation!r}: allowed are sigmoid and softmax")
        self.module = module
        self.activation = activation
        self.threshold = threshold
        self.preprocess = preprocess
        self.name = name or type(module).__name__
        self.trained = trained
        # images per probe forward, halved when memory runs out; on a CPU a few images stay in its cache
        self.chunk = 16 if self.device.type == "cpu" else 256
        self._layer = layer
        self._anatomy: Anatomy | None = None
        self.anatomies: Anatomies = {}  # classifiers of one module share it, see `xaibench.model_cache`
        if layer is not None:
            self._check_layer(layer)

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """The module in evaluation mode with frozen weights, and as it was afterwards."""
        modules = [(m, m.training) for m in self.module.modules()]
        parameters = [(p, p.requires_grad) for p in self.module.parameters()]
        try:
            self.module.eval()
            for parameter, _ in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for m, training in modules:
                m.training = training
            for parameter, requires_grad in parameters:
                parameter.requires_grad_(requires_grad)

    def logits(self, images: Tensor) -> Tensor:
        """[B, L], without a graph, in chunks that fit into memory."""
        with self.prepared(), torch.inference_mode():
            return map_chunks(self.bare_logits, images, self.chunk)

    def bare_logits(self, images: Tensor) -> Tensor:
        """[B, L] of one call of the module, for callers that have prepared it and chunk themselves."""
        # channels last is the faster layout for convolutions on CPUs and on tensor cores; values are the same
        layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
        return output_logits(self.module(images.contiguous(memory_format=layout)))

    def probabilities(self, images: Tensor) -> Tensor:
        """[B, L] in [0, 1]."""
        return self.activate(self.logits(images))

    def activate(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(-1)

    # -- what it is made of -------------------------------------------------------------------------------------

    def inspect(self, images: Tensor) -> Anatomy:
        """Find the target layer and check the head, once, by one forward of the first image."""
        if self._anatomy is None:
            key = (self._layer, tuple(images.shape[1:]))
            if key not in self.anatomies:
                self.anatomies[key] = _dissect(self, images[:1].detach())
            self._anatomy = self.anatomies[key]
        return self._anatomy

    @property
    def anatomy(self) -> Anatomy:
        """`inspect` on a random image of the model's input size, unless it has already seen one."""
        if self._anatomy is None:
            if self.preprocess is None:
                raise UsageError(f"{self.name}: its input size is not known; run it on images first")
            shape = (1, len(self.preprocess.mean), *self.preprocess.size)
            generator = torch.Generator().manual_seed(0)
            image = torch.randn(shape, generator=generator).to(self.device, next(self.module.parameters()).dtype)
            self.inspect(image)
        assert self._anatomy is not None
        return self._anatomy

    def layer_name(self, layer: str) -> str:
        """The dotted name behind "last"; other names are checked and returned."""
        if layer == "last":
            return self.anatomy.last
        if layer != "input":
            self._check_layer(layer)
        return layer

    def _check_layer(self, layer: str) -> None:
        names = [name for name, _ in self.module.named_modules() if name]
        if layer not in names:
            top = [name for name, _ in self.module.named_children()]
            hint = closest(layer, names) or f"; its top layers are {', '.join(top)}"
            raise UsageError(f"model {self.name} has no layer {layer!r}{hint}")

    @property
    def head_weight(self) -> Tensor:
        """[L, K]: logits = head_weight · spatial mean of the last features + bias."""
        if self.anatomy.head is None:
            raise IncompatibleError(
                f"model {self.name}: its logits are not a linear map of the mean of its last features "
                f"({self.anatomy.last}), which CAM needs; Grad-CAM works"
            )
        weight = self.module.get_submodule(self.anatomy.head).weight
        assert isinstance(weight, Tensor)
        return weight.detach().flatten(1)

    @cached_property
    def _attention(self) -> Attention | str:
        return find_attention(self.module)

    @property
    def attention(self) -> Attention:
        """Where the attention matrices are. Raises IncompatibleError with the reason when they cannot be read."""
        if isinstance(self._attention, str):
            raise IncompatibleError(f"model {self.name}: {self._attention}")
        return self._attention

    @cached_property
    def _blocks(self) -> tuple[str, ...] | str:
        return find_blocks(self.module)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The modules that relevance propagation reads. Raises IncompatibleError where it has no rules."""
        if isinstance(self._blocks, str):
            raise IncompatibleError(f"model {self.name}: {self._blocks}")
        return self._blocks

    def offers(self) -> set[str]:
        """Which of `xaibench.registry.NEEDS` this model has (masks come from the data set)."""
        offered = {"features", "gradients", "input_gradients"}
        if self.anatomy.head is not None:
            offered.add("linear_head")
        if not isinstance(self._attention, str):
            offered |= {"attention", "attention_gradients"}
        if not isinstance(self._blocks, str):
            offered.add("transformer_blocks")
            if not isinstance(find_patch_embedding(self.module), str):
                offered.add("patch_embedding")
        if not _fixed_size(self.module):
            offered.add("any_size")
        if not any(type(m).__name__ in NOT_RELU for m in self.module.modules()):
            offered.add("relu")
        return offered

    def lack(self, need: str) -> str:
        """Why this model does not offer `need`, as a clause."""
        if need in ("attention", "attention_gradients") and isinstance(self._attention, str):
            return self._attention
        if need == "transformer_blocks" and isinstance(self._blocks, str):
            return self._blocks
        if need == "patch_embedding":
            return str(find_patch_embedding(self.module))
        if need == "linear_head":
            return f"its head is not linear in the mean of its last features ({self.anatomy.last})"
        if need == "any_size":
            return "it takes images of one size only"
        if need == "relu":
            return "it has activations other than ReLU"
        return f"it has no {need}"

    def grid(self, captured: Tensor, images: Tensor) -> Tensor:
        """A captured activation (or its gradient) as [B, K, h, w]: prefix tokens dropped, channels first."""
        if captured.ndim == 4:
            nhwc = str(getattr(self.module, "output_fmt", "NCHW")).endswith("NHWC")
            return captured.permute(0, 3, 1, 2) if nhwc else captured
        if captured.ndim == 3:
            prefix = int(getattr(self.module, "num_prefix_tokens", 0))
            return self.tokens_to_grid(captured[:, prefix:].transpose(1, 2), images)
        raise IncompatibleError(
            f"model {self.name}: a layer of shape {tuple(captured.shape)} has no spatial grid; choose one before pooling"
        )

    def tokens_to_grid(self, tokens: Tensor, images: Tensor) -> Tensor:
        """[..., P] patch tokens as [..., h, w], row by row."""
        patches, (height, width) = tokens.shape[-1], images.shape[-2:]
        embed = getattr(self.module, "patch_embed", None)
        h, w = getattr(embed, "grid_size", None) or (0, 0)
        if getattr(self.module, "dynamic_img_size", False):
            h, w = embed.dynamic_feat_size((height, width))  # type: ignore[union-attr, operator]
        if h * w != patches:  # another size than the model's own: the grid has the image's aspect
            h = round((patches * height / width) ** 0.5)
            w = patches // max(h, 1)
        if h * w != patches:
            raise IncompatibleError(f"model {self.name}: {patches} tokens form no grid for a {height}x{width} image")
        return tokens.reshape(*tokens.shape[:-1], h, w)

    def ungrid(self, grid: Tensor, captured: Tensor) -> Tensor:
        """Activations [n, K, h, w] in the layout of a layer's own output; prefix tokens are those of `captured`."""
        if captured.ndim == 4:
            nhwc = str(getattr(self.module, "output_fmt", "NCHW")).endswith("NHWC")
            return grid.permute(0, 2, 3, 1) if nhwc else grid
        prefix = int(getattr(self.module, "num_prefix_tokens", 0))
        return torch.cat([captured[:, :prefix].expand(len(grid), -1, -1), grid.flatten(2).transpose(1, 2)], 1)

    @cached_property
    def weights_hash(self) -> str:
        """sha256 over names, shapes and bytes of the state dict: the same weights, whatever file they came from."""
        return state_hash(self.module.state_dict())


def output_logits(output: Any) -> Tensor:
    """The logits [B, L] in what a model returned (tensor, tuple, or an object with `.logits`)."""
    if not isinstance(output, Tensor):
        output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"the model returned {shape}; logits [B, L] are needed")
    return output


def _fixed_size(module: nn.Module) -> bool:
    """Whether a timm model embeds patches on a grid of fixed size (its `dynamic_img_size` is off)."""
    embed = getattr(module, "patch_embed", None)
    return embed is not None and bool(getattr(embed, "strict_img_size", True))


def _dissect(classifier: Classifier, image: Tensor) -> Anatomy:
    module = classifier.module
    outputs: dict[str, Tensor] = {}  # in order of completion, so that of equal tensors the outermost is last

    def record(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)
                outputs[name] = output

        return hook

    handles = [m.register_forward_hook(record(name)) for name, m in module.named_modules() if name]
    try:
        with classifier.prepared(), torch.no_grad():
            features = module.forward_features(image) if hasattr(module, "forward_features") else None  # type: ignore[operator]
            before_head = list(outputs)
            logits = output_logits(module(image))
    finally:
        for handle in handles:
            handle.remove()
    last = classifier._layer or _find_last(classifier, outputs, before_head if features is not None else None, image)
    head = None
    if last in outputs and outputs[last].ndim in (3, 4):
        with contextlib.suppress(IncompatibleError):
            head = _linear_head(module, outputs, classifier.grid(outputs[last], image), logits)
    return Anatomy(last, head)


def _find_last(classifier: Classifier, outputs: dict[str, Tensor], backbone: list[str] | None, image: Tensor) -> str:
    """The features before pooling: of a timm model the module that ends `forward_features`, else the last grid."""
    module = classifier.module
    if getattr(module, "global_pool", None) == "token" and hasattr(module, "blocks"):
        return f"blocks.{len(module.blocks) - 1}.norm1"  # type: ignore[arg-type]
    if backbone:
        return backbone[-1]
    grids = [name for name, output in outputs.items() if output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1]
    if not grids:
        raise UsageError(f"model {classifier.name}: no layer with a spatial grid was found; name one with layer=")
    return grids[-1]


def _linear_head(module: nn.Module, outputs: dict[str, Tensor], grid: Tensor, logits: Tensor) -> str | None:
    """The name of the linear layer through which logits are a linear map of the mean features, None if there is none."""
    for name, candidate in module.named_modules():
        if not isinstance(candidate, (nn.Linear, nn.Conv2d)) or name not in outputs:
            continue
        weight = candidate.weight.detach().flatten(1)
        if weight.shape != (logits.shape[1], grid.shape[1]):
            continue
        predicted = grid.mean((2, 3)) @ weight.T + (0 if candidate.bias is None else candidate.bias.detach())
        if float((predicted - logits).abs().max()) <= LINEAR_HEAD_TOLERANCE * max(float(logits.abs().max()), 1.0):
            return str(name)
    return None


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
            made for another number (`copy_first`, `mean`, `zero`: see `xaibench.models.stem_for`). A checkpoint that
            has `in_chans` channels is loaded as it is, and then the rule is that of mean and std alone
        options: passed to the model's constructor
        seed: of the random weights of an untrained model
        cache: shares modules among classifiers that do not change them; None: a module of its own

    Raises:
        UsageError, MissingError: an unknown name, an option it does not take, a checkpoint that is absent or unfit
    """
    from xaibench import bundled

    own = name in bundled.names()
    if own:
        recipe = bundled.recipe(name)
        if num_classes not in (None, len(bundled.classes(name))):
            raise UsageError(f"model {name} has {len(bundled.classes(name))} classes, not {num_classes}")
        if in_chans not in (None, STEM):
            raise UsageError(f"model {name} takes {STEM} channels, not {in_chans}")
        architecture, chosen = recipe.model.name, dict(recipe.model.options)
        num_classes, pretrained = len(bundled.classes(name)), False
        checkpoint = checkpoint or bundled.weights(name)
    else:
        architecture, chosen = name, stem_options(options or {}, in_chans)
    if num_classes is not None:
        chosen["num_classes"] = num_classes
    state = None if checkpoint is None else read_checkpoint(Path(checkpoint))

    def build() -> nn.Module:
        with seeded(seed):
            module = create_module(architecture, pretrained=pretrained, extra_channels=extra_channels, **chosen)
        if state is not None:
            load_state(module, state, f"checkpoint {checkpoint}", extra_channels=extra_channels)
        return module.to(device)

    anatomies: Anatomies = {}
    if cache is None:
        module = build()
    else:
        shared = cache.get(_identity(architecture, chosen, state, pretrained, extra_channels, seed, device), build)
        module, anatomies = shared.module, shared.anatomies
    preprocess = recipe.input.preprocess() if own else _configured(module)
    classifier = Classifier(
        module,
        activation=activation,
        layer=layer,
        threshold=threshold,
        preprocess=_adjust(preprocess, input or {}).for_channels(in_chans or STEM, extra_channels),
        name=name,
        trained=checkpoint is not None or pretrained,
    )
    classifier.anatomies = anatomies
    return classifier


def _identity(
    architecture: str, options: dict[str, Any], state: dict[str, Tensor] | None, pretrained: bool,
    extra_channels: ExtraChannels | None, seed: int, device: str | torch.device,
) -> Identity:  # fmt: skip
    from xaibench.model_cache import Identity

    source = state_hash(state) if state is not None else "timm's" if pretrained else f"random, seed {seed}"
    # the rule decides the stem that a checkpoint or timm's weights get
    spelled = repr([*sorted(options.items()), extra_channels])
    return Identity(architecture, spelled, source, torch.device(device))


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


__all__ = ["Activation", "Anatomy", "Classifier", "MissingError", "load_classifier", "output_logits"]
