"""A model prepared for explanation: activation, target layer, linear head, attention, input geometry.

The user's module stays as it was found: no hook, no `.grad`, no changed `training` or `requires_grad` outlives a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from xaibench.core.chunks import map_chunks
from xaibench.core.errors import IncompatibleError, UsageError, closest
from xaibench.data.preprocess import Preprocess
from xaibench.models.architectures import state_hash
from xaibench.models.structure import Anatomies, Anatomy, dissect, output_logits
from xaibench.models.timm_vit import Attention, find_attention, find_blocks, find_patch_embedding

Activation = Literal["sigmoid", "softmax"]
# by class name, for timm has classes of its own beside torch's
NOT_RELU = frozenset([
    "CELU", "ELU", "GELU", "GELUTanh", "GELUTan", "HardMish", "HardMishMe", "HardSigmoid", "HardSigmoidMe", "HardSwish",
    "HardSwishMe", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "MishMe",
    "PReLU", "QuickGELU", "RReLU", "RadixSoftmax", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softplus",
    "Softsign", "Swish", "SwishMe", "Tanh",
])  # fmt: skip


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
        self._shapes: set[tuple[int, ...]] = set()  # of images that the model has run on
        self.anatomies: Anatomies = {}  # classifiers of one module share it, see `xaibench.models.model_cache`
        if layer is not None:
            self._check_layer(layer)

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @property
    def geometry(self) -> Preprocess:
        """Input geometry and normalisation. Raises UsageError where they are not known."""
        if self.preprocess is None:
            raise UsageError(f"model {self.name}: its input geometry is not known; give Classifier(preprocess=...)")
        return self.preprocess

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
                self.try_images(images)
                self.anatomies[key] = dissect(self, images[:1].detach())
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

    def try_images(self, images: Tensor) -> None:
        """Run the first image, unless one of its shape has run before. Raise UsageError if the model cannot."""
        shape = tuple(images.shape[1:])
        if shape in self._shapes or not len(images):
            return
        try:
            self.logits(images[:1].detach())
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = str(error).splitlines()[0]
            raise UsageError(f"model {self.name} does not take images {list(shape)}: {reason}") from error
        self._shapes.add(shape)

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
            raise UsageError(f"model {self.name} has no layer {layer!r}{hint}", key="layer")

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
        """Which of `xaibench.core.registry.NEEDS` this model has (masks come from the data set)."""
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


def _fixed_size(module: nn.Module) -> bool:
    """Whether a timm model embeds patches on a grid of fixed size (its `dynamic_img_size` is off)."""
    embed = getattr(module, "patch_embed", None)
    return embed is not None and bool(getattr(embed, "strict_img_size", True))
