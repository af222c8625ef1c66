"""A model prepared for explanation: activation, target layer, linear head, attention, input geometry.

After a call the user's module has no hook, no `.grad` and no changed `training` or `requires_grad`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from xaibench.core.chunks import map_chunks
from xaibench.core.errors import IncompatibleError, UsageError, closest
from xaibench.core.tracebacks import headline
from xaibench.data.preprocess import Preprocess
from xaibench.models.checkpoints import state_hash
from xaibench.models.structure import (
    FAULTS,
    Structure,
    Structures,
    evaluation_mode,
    find_structure,
    output_logits,
)
from xaibench.models.timm_vit import Attention, find_attention, find_blocks

Activation = Literal["sigmoid", "softmax"]


class Classifier:
    """Any `nn.Module` that maps images [B, C, H, W] to logits [B, L].

    Args:
        module: the model; any module works, and timm's models offer most to methods
        activation: how logits become probabilities: "sigmoid" (multi-label) or "softmax"
        layer: dotted name of the target layer ("last" in suites); None: the features before pooling are found. For
            transformers that read a class token it is the input of the last block's attention (its `norm1`), the
            deepest place where patch tokens still reach the logits
        threshold: a label is detected where its probability is > threshold
        preprocess: input geometry and normalisation; None: images are taken as they come
        name: for records and messages
        class_names: names of the labels, in the order of the logits; empty where they are not known
        trained: False marks a model without a checkpoint; leaderboards mark its rows
        structures: structures of this module that were found already; classifiers of one module share them
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
        class_names: Sequence[str] = (),
        trained: bool = True,
        structures: Structures | None = None,
    ) -> None:
        if activation not in ("sigmoid", "softmax"):
            raise UsageError(f"activation {activation!r}: allowed are sigmoid and softmax")
        self.module = module
        self.activation = activation
        self.threshold = threshold
        self.preprocess = preprocess
        self.name = name or type(module).__name__
        self.class_names = tuple(class_names)
        self.trained = trained
        # images per probe forward, halved when memory runs out; on a CPU a few images stay in its cache
        self.chunk = 16 if self.device.type == "cpu" else 256
        self._layer = layer
        self._structure: Structure | None = None
        self._structures = {} if structures is None else structures
        self._shapes: set[tuple[int, ...]] = set()  # of images that the model has run on
        if layer is not None:
            self._check_layer(layer)

    def with_module(self, module: nn.Module, *, trained: bool = False, name: str | None = None) -> Classifier:
        """The same classifier around another module of this structure, for instance one with random weights."""
        other = Classifier(
            module,
            activation=self.activation,
            layer=self.structure.target_layer,
            threshold=self.threshold,
            preprocess=self.preprocess,
            name=name or self.name,
            class_names=self.class_names,
            trained=trained,
        )
        other.chunk = self.chunk
        return other

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def geometry(self) -> Preprocess:
        """Input geometry and normalisation. Raises UsageError where they are not known."""
        if self.preprocess is None:
            raise UsageError(f"model {self.name}: its input geometry is not known; give Classifier(preprocess=...)")
        return self.preprocess

    def logits(self, images: Tensor) -> Tensor:
        """[B, L], without a graph, in chunks that fit into memory."""
        with evaluation_mode(self.module), torch.inference_mode():
            return map_chunks(self.bare_logits, images, self.chunk)

    def bare_logits(self, images: Tensor) -> Tensor:
        """[B, L] of one call of the module, for callers that set the evaluation mode and chunk themselves."""
        # channels last is the faster layout for convolutions on CPUs and on tensor cores; values are the same
        layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
        return output_logits(self.module(images.contiguous(memory_format=layout)))

    def probabilities(self, images: Tensor) -> Tensor:
        """[B, L] in [0, 1]."""
        return self.activate(self.logits(images))

    def activate(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(-1)

    # -- structure ---------------------------------------------------------------------------------------------

    def inspect(self, images: Tensor) -> Structure:
        """Target layer and head, found once, by one pass of the first image."""
        if self._structure is None:
            key = (self._layer, tuple(images.shape[1:]))
            if key not in self._structures:
                self.try_images(images)
                with self._named():
                    self._structures[key] = find_structure(self.module, self._layer, images[:1].detach())
            found = self._structures[key]
            if self.class_names and len(self.class_names) != found.labels:
                raise UsageError(
                    f"model {self.name} has {found.labels} labels, but {len(self.class_names)} class names"
                )
            self._structure = found
        return self._structure

    @property
    def structure(self) -> Structure:
        """What `inspect` found, or finds now by a random image of the model's input size."""
        if self._structure is not None:
            return self._structure
        if self.preprocess is None:
            raise UsageError(f"{self.name}: its input size is not known; run it on images first")
        shape = (1, len(self.preprocess.mean), *self.preprocess.size)
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return self.inspect(image.to(self.device, self.dtype))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Put the model's name in front of the messages of functions that see the module alone."""
        try:
            yield
        except UsageError as error:
            raise type(error)(f"model {self.name}: {error.message}", key=error.key) from error

    def try_images(self, images: Tensor) -> None:
        """Run the first image, unless one of its shape has run before. Raise UsageError if the model cannot."""
        shape = tuple(images.shape[1:])
        if shape in self._shapes or not len(images):
            return
        try:
            with self._named():
                self.logits(images[:1].detach())
        except torch.OutOfMemoryError:
            raise
        except FAULTS as error:
            message = f"model {self.name} does not take images {list(shape)} ({headline(error)})"
            raise UsageError(message) from error
        self._shapes.add(shape)

    def layer_name(self, layer: str) -> str:
        """The dotted name behind "last"; other names are checked and returned."""
        if layer == "last":
            return self.structure.target_layer
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
        if self.structure.head is None:
            raise IncompatibleError(
                f"model {self.name}: its logits are not a linear map of the mean of its last features "
                f"({self.structure.target_layer}), which CAM needs; Grad-CAM works"
            )
        weight = self.module.get_submodule(self.structure.head).weight
        assert isinstance(weight, Tensor)
        return weight.detach().flatten(1)

    @cached_property
    def attention(self) -> Attention:
        """Where the attention matrices are. Raises IncompatibleError with the reason where they cannot be read."""
        with self._named():
            return find_attention(self.module)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The modules that relevance propagation reads. Raises IncompatibleError where it has no rules for them."""
        with self._named():
            return find_blocks(self.module)

    @cached_property
    def weights_hash(self) -> str:
        """sha256 over names, shapes and bytes of the state dict: the same weights, whatever file they came from."""
        return state_hash(self.module.state_dict())
