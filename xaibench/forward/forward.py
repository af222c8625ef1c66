"""`Forward`: one forward pass of a batch, memoised, that all methods of a suite share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from xaibench.core.pairs import Pairs
from xaibench.core.registry import PairRule
from xaibench.data.ground_truth import GroundTruth
from xaibench.forward.draws import Kind, generator, pair_generators, stacked
from xaibench.forward.gradients import Gradients, hessian_products
from xaibench.forward.one_pass import Hook, OnePass, check_images, run_once
from xaibench.forward.plan import Plan
from xaibench.forward.probes import probe_pairs
from xaibench.forward.replacement import Replacement
from xaibench.models.classifier import Classifier
from xaibench.models.structure import grid, tokens_to_grid

__all__ = ["Forward", "Hook", "Pairs", "Plan"]

Labels = Literal["detected", "present"]


class Forward:
    """One forward pass of a batch. Everything is computed once and shared; nothing is computed before it is asked for.

    Args:
        classifier: the model
        images: [B, C, H, W], model input (already normalised)
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
        self._pass: OnePass | None = None
        self._gradients: Gradients | None = None

    # -- the pass -----------------------------------------------------------------------------------------------

    @property
    def logits(self) -> Tensor:
        """[B, L]"""
        return self._run().logits.detach()

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
        name = self.classifier.layer_name(layer)
        return self._grid(self._activation(name), name)

    def gradients(self, pairs: Pairs, layer: str = "last") -> Tensor:
        """Gradient of each pair's logit with respect to a layer's activations: [P, K, h, w].

        One backward pass per label rank (the r-th label of every image together); the planned layers above come with it.
        """
        name = self.classifier.layer_name(layer)
        return self._grid(self._gradient(pairs, name), name)

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
        return self._grid(torch.cat([gradients[name] for _, gradients in ranks])[order], name)

    def each_gradient(self, pairs: Pairs, layers: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Gradients of many layers, label rank by label rank, none kept: rows of `pairs` [n], {layer: [n, K, h, w]}."""
        names = {self.classifier.layer_name(layer): layer for layer in layers}
        for rows, gradients in self._backward(frozenset(names)).each(pairs, list(names)):
            yield rows, {layer: self._grid(gradients[name], name) for name, layer in names.items()}

    def curvature(self, pairs: Pairs, layer: str = "last") -> Tensor:
        """H A [P, K, h, w]: the Hessian of each pair's logit with respect to a layer's activations A, times A."""
        name = self.classifier.layer_name(layer)
        twin = self.at(self.images, plan=Plan(gradients=frozenset({name})))
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels cannot be differentiated twice
            found = twin._run()
        return self._grid(hessian_products(found.logits, found.kept[name], pairs), name)

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
        return probe_pairs(self.classifier, pairs, count, change, output)

    def replaced(self, pairs: Pairs, layer: str, count: int, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Logits [P, count] when the activation of a layer is replaced, in `count` versions for each pair's image.

        See `Replacement` for what is run: nothing at all where logits are linear in the mean of the layer.

        Args:
            change: makes versions: (activation [K, h, w], which version [n]) -> activations [n, K, h, w]
        """
        name = self.classifier.layer_name(layer)
        if name == "input":

            def changed(rows: Tensor, index: Tensor) -> Tensor:
                return torch.cat([change(self.images[row], index[rows == row]) for row in torch.unique(rows)])

            return self.perturbed(pairs, count, changed)
        features = self.features(layer)
        if not len(pairs):
            return features.new_zeros((0, count))
        replacement = Replacement(self.classifier, name, self.images, features, self.logits)
        return replacement.scores(pairs, count, change)

    @property
    def head_weight(self) -> Tensor:
        """[L, K] of a linear head. Raises IncompatibleError where the head is not linear."""
        return self.classifier.head_weight

    @cached_property
    def attentions(self) -> Tensor:
        """Post-softmax attention of all blocks [B, blocks, heads, N, N]."""
        layers = self.classifier.attention.layers
        self.expect(Plan(features=frozenset(layers)))
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
        self.expect(Plan(gradients=frozenset(wanted.values())))
        return {block: self._gradient(pairs, name) for block, name in wanted.items()}

    def activations(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What each named module returned, as it is: [B, ...], without a graph."""
        self.expect(Plan(features=frozenset(names)))
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
        return pair_generators(self.seed, self.ids, pairs, name)

    def draw(self, name: str, *shape: int, kind: Kind = "uniform") -> Tensor:
        """Random numbers of each image [B, *shape], seeded by (suite seed, sample id, name)."""
        generators = (generator(self.seed, sample, name) for sample in self.ids)
        return stacked(generators, shape, kind, torch.float64).to(self.images)

    def draw_per_pair(
        self,
        pairs: Pairs,
        name: str,
        *shape: int,
        kind: Kind = "uniform",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Random numbers of each pair [P, *shape], seeded by (suite seed, sample id, label, name).

        Args:
            dtype: in which they are drawn and returned; the same numbers for every precision of the model
        """
        return stacked(self.generators(pairs, name), shape, kind, dtype).to(self.images.device)

    # -- how --------------------------------------------------------------------------------------------------

    def expect(self, plan: Plan) -> None:
        """Make sure that the pass keeps what `plan` says; run again, keeping it too, if it has run without."""
        if not plan <= self._plan:
            self._plan = self._plan | plan
            self._pass, self._gradients = None, None

    def _activation(self, name: str) -> Tensor:
        self.expect(Plan(features=frozenset({name})))
        return self._run().kept[name].detach()

    def _grid(self, captured: Tensor, name: str) -> Tensor:
        """Values at a layer as grids [n, K, h, w]; the input is one."""
        return captured if name == "input" else grid(self.classifier.module, captured, self.images)

    def _gradient(self, pairs: Pairs, name: str) -> Tensor:
        return self._backward(frozenset({name})).of(pairs, name)

    def _backward(self, names: frozenset[str]) -> Gradients:
        self.expect(Plan(gradients=names))
        if self._gradients is None:
            found = self._run()
            targets = {layer: kept for layer, kept in found.kept.items() if layer in self._plan.gradients}
            self._gradients = Gradients(found.logits, targets)
        return self._gradients

    def _run(self) -> OnePass:
        if self._pass is None:
            self._pass = run_once(self.classifier.module, self.images, self._plan, self._hooks)
        return self._pass
