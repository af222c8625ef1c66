"""`Forward`: one forward pass of a batch, memoised, that all methods of a suite share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from xaibench.core.chunks import map_chunks
from xaibench.core.errors import UsageError
from xaibench.core.pairs import Pairs
from xaibench.core.registry import PairRule
from xaibench.core.seeding import stable_seed
from xaibench.data.ground_truth import GroundTruth
from xaibench.forward.gradients import Gradients
from xaibench.forward.plan import Plan
from xaibench.forward.probes import probe
from xaibench.models.classifier import Classifier
from xaibench.models.structure import evaluation_mode, grid, output_logits, tokens_to_grid, ungrid
from xaibench.models.timm_vit import SUFFIX, unfused_attention

__all__ = ["Forward", "Hook", "Pairs", "Plan"]

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]
Labels = Literal["detected", "present"]
PRECISIONS = (torch.float32, torch.float64)
SAME_LOGITS = 1e-4  # of the largest: float32 rounding of another batch size


def _generator(*parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed(*parts, size=7))


def check_images(classifier: Classifier, images: Tensor) -> None:
    """Raise UsageError unless images are a batch in the precision of the model's weights."""
    if not isinstance(classifier, Classifier):
        raise UsageError(
            f"a Classifier is needed, found {type(classifier).__name__}; write xaibench.Classifier(module)"
        )
    if not isinstance(images, Tensor):
        raise UsageError(
            f"images must be a tensor [B, C, H, W], found {type(images).__name__}; write torch.as_tensor(...)"
        )
    if images.ndim != 4:
        raise UsageError(f"images must be [B, C, H, W], found {tuple(images.shape)}")
    weights = next((p.dtype for p in classifier.module.parameters() if p.is_floating_point()), images.dtype)
    if images.dtype not in PRECISIONS:
        raise UsageError(
            f"images must be normalised float32 or float64, found {images.dtype}; write images.to({weights})"
        )
    if images.dtype != weights:
        raise UsageError(f"images are {images.dtype}, the model's weights {weights}; convert one of them")


class Forward:
    """One forward pass of a batch. Everything is computed once and shared; nothing is computed before it is asked for.

    Args:
        classifier: the model
        images: [B, C, H, W], what the model eats (already normalised)
        plan: what the pass must keep for the methods to come; a method that asks for more makes it run again
        ground_truth: of the batch, for controls and metrics that read it
        ids: sample ids, which seed random draws; None: the row numbers
        seed: of the suite
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        *,
        plan: Plan | None = None,
        ground_truth: GroundTruth | None = None,
        ids: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        check_images(classifier, images)
        self.classifier = classifier
        self.images = images
        labels = classifier.inspect(images).labels
        self.ground_truth = (ground_truth or GroundTruth()).checked(images, labels)
        self.ids = [str(i) for i in range(len(images))] if ids is None else list(ids)
        self.seed = seed
        self._plan = plan or Plan()
        self._hooks: Mapping[str, Hook] = {}
        self._captured: dict[str, Tensor] = {}
        self._graph_logits: Tensor | None = None
        self._gradients: Gradients | None = None

    # -- the pass -----------------------------------------------------------------------------------------------

    @property
    def logits(self) -> Tensor:
        """[B, L]"""
        return self._run().detach()

    @cached_property
    def probabilities(self) -> Tensor:
        """[B, L] in [0, 1]"""
        return self.classifier.activate(self.logits)

    @cached_property
    def detected(self) -> Tensor:
        """bool [B, L]: probability > threshold."""
        return self.probabilities > self.classifier.threshold

    @cached_property
    def detected_pairs(self) -> Pairs:
        """All (image, detected label) pairs, image by image."""
        return Pairs.where(self.detected)

    def features(self, layer: str = "last") -> Tensor:
        """Activations [B, K, h, w] of a layer ("last", "input" or a dotted name)."""
        if layer == "input":
            return self.images
        return self._grid(self._activation(self.classifier.layer_name(layer)))

    def gradients(self, pairs: Pairs, layer: str = "last") -> Tensor:
        """Gradient of each pair's logit with respect to a layer's activations: [P, K, h, w].

        One backward pass per label rank (the r-th label of every image together); the planned layers above come with it.
        """
        name = self.classifier.layer_name(layer)
        gradient = self._gradient(pairs, name)
        return gradient if name == "input" else self._grid(gradient)

    def combined_gradients(self, pairs: Pairs, coefficients: Tensor, layer: str = "last") -> Tensor:
        """Gradient of sum_l coefficients[p, l] S_l of each pair's image [P, K, h, w]: one backward per label rank.

        Args:
            coefficients: [P, L], constants
        """
        if not len(pairs):
            return self.gradients(pairs, layer)
        name = self.classifier.layer_name(layer)
        ranks = list(self._backward(frozenset({name})).each(pairs, [name], coefficients))
        order = torch.cat([rows for rows, _ in ranks]).argsort()
        found = torch.cat([gradients[name] for _, gradients in ranks])[order]
        return found if name == "input" else self._grid(found)

    def each_gradient(self, pairs: Pairs, layers: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Gradients of many layers, label rank by label rank, none kept: rows of `pairs` [n], {layer: [n, K, h, w]}."""
        names = {self.classifier.layer_name(layer): layer for layer in layers}
        for rows, gradients in self._backward(frozenset(names)).each(pairs, list(names)):
            yield (
                rows,
                {
                    layer: gradients[name] if name == "input" else self._grid(gradients[name])
                    for name, layer in names.items()
                },
            )

    def curvature(self, pairs: Pairs, layer: str = "last") -> Tensor:
        """H A [P, K, h, w]: the Hessian of each pair's logit with respect to a layer's activations A, times A."""
        name = self.classifier.layer_name(layer)
        twin = self.at(self.images, plan=Plan(gradients=frozenset({name})))
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels cannot be differentiated twice
            logits = twin._run()
        activation = twin._captured[name]
        products = activation.new_zeros((len(pairs), *activation.shape[1:]))
        for rows in pairs.ranks():
            images = pairs.image[rows]
            with torch.enable_grad():
                total = logits[images, pairs.label[rows]].sum()
                (gradient,) = torch.autograd.grad(total, activation, create_graph=True, materialize_grads=True)
                if gradient.requires_grad:  # else the logits are linear in the layer
                    along = (gradient * activation.detach()).sum()
                    (product,) = torch.autograd.grad(along, activation, retain_graph=True, materialize_grads=True)
                    products[rows] = product[images]
        return products if name == "input" else self._grid(products)

    # -- other passes -------------------------------------------------------------------------------------------

    def at(self, images: Tensor, *, plan: Plan | None = None, rows: Tensor | None = None) -> Forward:
        """A pass of other images: changed versions of this batch, or of its `rows` [n], under the same ids."""
        ids = self.ids if rows is None else [self.ids[row] for row in rows.tolist()]
        return Forward(self.classifier, images, plan=plan, ids=ids, seed=self.seed)

    def perturbed(
        self,
        pairs: Pairs,
        count: int,
        change: Callable[[Tensor, Tensor], Tensor],
        output: Literal["logits", "probabilities"] = "logits",
    ) -> Tensor:
        """Outputs of the model on `count` changed versions of each pair's image: [P, count].

        Every version is run once, for all labels of its image, in chunks that fit into memory.

        Args:
            change: makes versions: (rows of the batch [n], which version [n]) -> images [n, C, H, W]
            output: logits in the precision of the images; probabilities in float64, since float32 has few values near 1
        """
        if not len(pairs):
            return self.images.new_zeros((0, count))
        rows, labels = torch.unique(pairs.image), torch.unique(pairs.label)
        versions = torch.arange(len(rows) * count, device=rows.device)

        def images_of(chunk: Tensor) -> Tensor:
            return change(rows[chunk // count], chunk % count)

        if output == "logits":
            found = probe(self.classifier, versions, images_of, labels)
        else:  # softmax reads all labels
            found = self.classifier.activate(probe(self.classifier, versions, images_of).double())[:, labels]
        return found.view(len(rows), count, len(labels))[
            torch.searchsorted(rows, pairs.image), :, torch.searchsorted(labels, pairs.label)
        ]

    def replaced(self, pairs: Pairs, layer: str, count: int, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Logits [P, count] when the activation of a layer is replaced, in `count` versions for each pair's image.

        Only what follows the layer is run on the versions, what precedes it on the one image, where the model allows
        that; a model that reads the batch size of its input, or joins the layer with another one, is run as a whole.
        Nothing at all is run where logits are linear in the mean of the layer.

        Args:
            change: makes versions: (activation [K, h, w], which version [n]) -> activations [n, K, h, w]
        """
        name, classifier = self.classifier.layer_name(layer), self.classifier
        if name == "input":
            return self.perturbed(
                pairs,
                count,
                lambda rows, index: torch.cat(
                    [change(self.images[row], index[rows == row]) for row in torch.unique(rows)]
                ),
            )
        features, rows, labels = self.features(layer), torch.unique(pairs.image), torch.unique(pairs.label)
        if not len(pairs):
            return features.new_zeros((0, count))
        linear = classifier.structure.head is not None and name == classifier.structure.target_layer
        one_image = not linear and self._follows_one_image(name, int(rows[0]))

        def scores_of(row: Tensor) -> Callable[[Tensor], Tensor]:
            def scores(chunk: Tensor) -> Tensor:
                versions = change(features[row], chunk)
                if linear:
                    shift = (versions - features[row]).mean((2, 3))
                    return self.logits[row, labels] + shift @ self.head_weight[labels].T
                return self._run_replaced(name, int(row), versions, 1 if one_image else len(chunk))[:, labels]

            return scores

        versions = torch.arange(count, device=rows.device)
        with evaluation_mode(classifier.module), torch.inference_mode():
            scores = torch.stack([map_chunks(scores_of(row), versions, classifier.chunk) for row in rows])
        return scores[torch.searchsorted(rows, pairs.image), :, torch.searchsorted(labels, pairs.label)]

    def _run_replaced(self, name: str, row: int, versions: Tensor, copies: int) -> Tensor:
        """Logits [n, L] when a layer puts out versions [n, K, h, w], the model being run on `copies` of one image."""
        module = self.classifier.module
        hook = module.get_submodule(name).register_forward_hook(lambda _, __, found: ungrid(module, versions, found))
        try:
            return output_logits(module(self.images[row].expand(copies, -1, -1, -1)))
        finally:
            hook.remove()

    def _follows_one_image(self, name: str, row: int) -> bool:
        """Whether what follows a layer takes several activations where the model was given one image."""
        activation, logits = self._grid(self._activation(name))[row], self.logits[row]
        versions = torch.stack([activation, activation / 2])
        try:
            with evaluation_mode(self.classifier.module), torch.inference_mode():
                found = self._run_replaced(name, row, versions, 1)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, UsageError):  # shapes that do not fit, or logits of another shape
            return False
        tolerance = SAME_LOGITS * float(logits.abs().max())
        return found.shape == (2, len(logits)) and float((found[0] - logits).abs().max()) <= tolerance

    @property
    def head_weight(self) -> Tensor:
        """[L, K] of a linear head. Raises IncompatibleError where the head is not linear."""
        return self.classifier.head_weight

    @cached_property
    def attentions(self) -> Tensor:
        """Post-softmax attention of all blocks [B, blocks, heads, N, N]."""
        layers = self.classifier.attention.layers
        self._require(Plan(features=frozenset(layers)))
        return torch.stack([self._activation(layer).detach() for layer in layers], 1)

    def attention_gradients(self, pairs: Pairs, start_layer: int = 0) -> Tensor:
        """Gradient of each pair's logit with respect to the attention of the blocks from `start_layer` on.

        [P, blocks, heads, N, N]
        """
        return torch.stack(list(self.block_gradients(pairs, start_layer).values()), 1)

    def block_gradients(self, pairs: Pairs, start_layer: int = 0) -> dict[int, Tensor]:
        """The same, by block and not copied: {block: [P, heads, N, N]}."""
        layers = dict(enumerate(self.classifier.attention.layers))
        wanted = {block: name for block, name in layers.items() if block >= start_layer}
        self._require(Plan(gradients=frozenset(wanted.values())))
        return {block: self._gradient(pairs, name) for block, name in wanted.items()}

    def activations(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What each named module returned, as it is: [B, ...], without a graph."""
        self._require(Plan(features=frozenset(names)))
        return {name: self._activation(name) for name in names}

    def hooked(self, hooks: Mapping[str, Hook], plan: Plan) -> Forward:
        """Another pass of the same batch, with forward hooks on named modules: for rules that change gradients."""
        other = Forward(self.classifier, self.images, plan=plan, ids=self.ids, seed=self.seed)
        other._hooks = hooks
        return other

    @staticmethod
    def rank_gradients(logits: Tensor, target: Tensor, pairs: Pairs) -> Tensor:
        """Gradient of each pair's entry of `logits` [B, L] with respect to `target` [B, ...]: [P, ...].

        One backward pass per label rank. Neither has to belong to this pass.
        """
        return Gradients(logits, {"target": target}).of(pairs, "target")

    def readout(self, tokens: int) -> Tensor:
        """[N] weights with which the head reads the tokens (class token: 1 there, 0 elsewhere)."""
        return self.classifier.attention.row(tokens, self.images)

    def token_map(self, row: Tensor) -> Tensor:
        """[..., N] a value per token as a map [..., h, w], prefix tokens dropped."""
        return tokens_to_grid(self.classifier.module, row[..., self.classifier.attention.prefix :], self.images)

    # -- which pairs --------------------------------------------------------------------------------------------

    def select(self, rule: PairRule) -> Tensor:
        """bool [B, L]: the labels of each image that a rule chooses to explain."""
        if rule == "detected":
            return self.detected
        if rule == "predicted":
            return torch.zeros_like(self.detected).scatter(1, self.probabilities.argmax(1, keepdim=True), True)
        return self.ground_truth.labels_for(f"explain: {rule}")

    def others(self, pairs: Pairs, labels: Labels = "detected") -> Tensor:
        """bool [P, L]: the labels of each pair's image, detected or present, but the pair's own."""
        chosen = self.detected if labels == "detected" else self.ground_truth.labels_for("labels: present")
        return chosen[pairs.image].scatter(1, pairs.label[:, None], False)

    # -- random draws -------------------------------------------------------------------------------------------

    def generators(self, pairs: Pairs, name: str) -> Iterator[torch.Generator]:
        """A generator per pair, seeded by (suite seed, sample id, label, name); global state is not touched."""
        for image, label in zip(pairs.image.tolist(), pairs.label.tolist(), strict=True):
            yield _generator(self.seed, self.ids[image], label, name)

    def draw(self, name: str, *shape: int, kind: Literal["uniform", "normal"] = "uniform") -> Tensor:
        """Random numbers of each image [B, *shape], seeded by (suite seed, sample id, name)."""
        make = torch.rand if kind == "uniform" else torch.randn
        drawn = [make(shape, generator=_generator(self.seed, sample, name), dtype=torch.float64) for sample in self.ids]
        return torch.stack(drawn).to(self.images)

    def draw_per_pair(
        self,
        pairs: Pairs,
        name: str,
        *shape: int,
        kind: Literal["uniform", "normal"] = "uniform",
        dtype: torch.dtype = torch.float32,
        below: int | None = None,
    ) -> Tensor:
        """Random numbers of each pair [P, *shape], seeded by (suite seed, sample id, label, name).

        Args:
            dtype: in which they are drawn and returned; the same numbers for every precision of the model
            below: int64 from 0 to below - 1 instead
        """
        make: Callable[..., Tensor] = torch.rand if kind == "uniform" else torch.randn
        if below is not None:
            make, dtype = partial(torch.randint, below), torch.int64
        drawn = [make(shape, generator=generator, dtype=dtype) for generator in self.generators(pairs, name)]
        return (torch.stack(drawn) if drawn else torch.zeros((0, *shape), dtype=dtype)).to(self.images.device)

    # -- how --------------------------------------------------------------------------------------------------

    def expect(self, plan: Plan) -> None:
        """Say what will be asked for, so that one pass serves all of it."""
        self._require(plan)

    def _require(self, plan: Plan) -> None:
        """Make sure the pass keeps what `plan` says; run again, keeping it too, if it has already run without."""
        if not plan <= self._plan:
            self._plan = self._plan | plan
            self._captured, self._graph_logits, self._gradients = {}, None, None

    def _activation(self, name: str) -> Tensor:
        self._require(Plan(features=frozenset({name})))
        self._run()
        return self._captured[name].detach()

    def _grid(self, captured: Tensor) -> Tensor:
        return grid(self.classifier.module, captured, self.images)

    def _gradient(self, pairs: Pairs, name: str) -> Tensor:
        return self._backward(frozenset({name})).of(pairs, name)

    def _backward(self, names: frozenset[str]) -> Gradients:
        self._require(Plan(gradients=names))
        logits = self._run()
        if self._gradients is None:
            targets = {layer: kept for layer, kept in self._captured.items() if layer in self._plan.gradients}
            self._gradients = Gradients(logits, targets)
        return self._gradients

    def _run(self) -> Tensor:
        """The logits [B, L], with their graph where the plan wants gradients."""
        if self._graph_logits is None:
            taps = (self._plan.features | self._plan.gradients) - {"input"}
            attention = tuple(sorted(name for name in taps if name.endswith(SUFFIX)))
            module = self.classifier.module
            images = self.images.detach().contiguous(memory_format=torch.channels_last)  # faster convolutions
            self._captured = {}
            with contextlib.ExitStack() as stack:
                stack.enter_context(evaluation_mode(module))
                stack.enter_context(unfused_attention(module, attention))
                stack.enter_context(torch.no_grad())  # a tap turns the graph on where the plan first needs it
                for name, hook in self._hooks.items():
                    stack.callback(module.get_submodule(name).register_forward_hook(hook).remove)
                for name in taps:
                    handle = module.get_submodule(name).register_forward_hook(self._tap(name))
                    stack.callback(handle.remove)
                if "input" in self._plan.gradients:
                    self._captured["input"] = images.clone().requires_grad_()
                    torch.set_grad_enabled(True)
                    images = self._captured["input"].clone()  # the leaf survives an in-place first layer
                self._graph_logits = output_logits(module(images))
            if idle := sorted(taps - self._captured.keys()):
                raise UsageError(f"layer {idle[0]!r} does not run in a forward pass; choose one that does")
        return self._graph_logits

    def _tap(self, name: str) -> Any:
        differentiate = name in self._plan.gradients

        def hook(_: nn.Module, __: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise UsageError(f"layer {name!r} returns {type(output).__name__}, not a tensor; choose another")
            if name in self._captured:
                raise UsageError(f"layer {name!r} runs more than once in a forward pass; choose one that runs once")
            if differentiate:
                torch.set_grad_enabled(True)
                if not output.requires_grad:
                    output = output.detach().requires_grad_()
            self._captured[name] = output
            # what follows gets a copy, so that an in-place activation or `x += shortcut` cannot change the capture
            follower: Tensor = output if name.endswith(SUFFIX) else output.clone()
            return follower

        return hook
