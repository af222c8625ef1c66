"""Multi-label fine-tuning of a timm model on a registered data set: BCE, AdamW, warm-up and cosine, seeded.

A recipe (YAML) says what is trained; `xaibench train recipe.yaml` writes weights as safetensors and a card (data,
recipe, seed, AP per class, sha256) beside them. The bundled models are made by exactly this.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from xaibench.datasets import Dataset, load_dataset
from xaibench.preprocess import ExtraChannels, Preprocess, Resize
from xaibench.yamlfile import Document


class Section(pydantic.BaseModel):
    """A part of a recipe; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """Which data set, with its options; `train` and `evaluate` are the names of splits."""

    name: str
    train: str = "train"
    evaluate: str = "val"
    options: dict[str, Any] = {}


class ModelSection(Section):
    """A timm model or a bundled architecture.

    `start` is a checkpoint to fine-tune from (a bundled model's name, or a file; a head of another size is left out),
    `into` the submodule that takes it. `in_chans` is the number of input channels where it is not 3, `extra_channels`
    how the first convolution of a `start` of three channels, mean and std become those of `in_chans`: see
    `xaibench.models.stem_for`.
    """

    name: str
    options: dict[str, Any] = {}
    start: str | None = None
    into: str = ""
    in_chans: int | None = pydantic.Field(None, ge=1)
    extra_channels: ExtraChannels | None = None


class InputSection(Section):
    size: int | tuple[int, int]
    resize: Resize = "squash"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def preprocess(self) -> Preprocess:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return Preprocess(size, self.resize, self.mean, self.std)


class AugmentSection(Section):
    """Random changes of a training image.

    `flip` mirrors left-right, `dihedral` also turns by quarter turns, `crop` is the smallest area fraction of a random
    crop (1: none; a crop may cut an object away, as in usual fine-tuning practice), `colour` the strength of
    brightness and contrast changes.
    """

    flip: bool = True
    dihedral: bool = False
    crop: float = pydantic.Field(1.0, gt=0, le=1)
    colour: float = pydantic.Field(0.0, ge=0, le=1)


class Recipe(Section):
    """Everything that decides the trained weights."""

    name: str
    seed: int = 0
    dataset: DataSection
    model: ModelSection
    input: InputSection
    augment: AugmentSection = AugmentSection()
    epochs: int = pydantic.Field(20, ge=1)
    warmup: float = pydantic.Field(1.0, ge=0, description="epochs of linear warm-up")
    batch_size: int = pydantic.Field(32, ge=2)
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    weight_decay: float = pydantic.Field(0.05, ge=0)
    clip: float = pydantic.Field(1.0, gt=0, description="largest gradient norm")
    positive_weight: Literal["none", "balanced"] = "none"
    precision: Literal["float32", "amp"] = "float32"


@dataclass(frozen=True)
class Epoch:
    """What one epoch reached: mean training loss, AP per class [L] and their mean (NaN classes left out)."""

    number: int
    loss: float
    average_precision: npt.NDArray[np.float64]

    @property
    def mean_average_precision(self) -> float:
        return float(np.nanmean(self.average_precision))


@dataclass(frozen=True)
class Examples(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Images [C, H, W] normalised, labels [L] and ignore [L] of a data set. Augmented by (seed, epoch, index)."""

    dataset: Dataset
    preprocess: Preprocess
    augment: AugmentSection | None = None
    seed: int = 0
    epoch: int = 0
    cache: dict[int, tuple[Tensor, Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image, labels, ignore = self._clean(index)
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            image = self.preprocess.normalise(augmented(self.preprocess.pixels(image), self.augment, rng))
        return image, labels, ignore

    def _clean(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        sample = self.dataset[index]
        example = (
            self.preprocess.image(sample.image),
            torch.from_numpy(sample.labels.astype(np.float32)),
            torch.from_numpy(sample.ignore.astype(bool)),
        )
        if self.cache is not None:
            self.cache[index] = example
        return example


def augmented(pixels: Tensor, augment: AugmentSection, rng: np.random.Generator) -> Tensor:
    """A random variant of `pixels` [C, H, W] in [0, 1]."""
    if augment.crop < 1:
        height, width = pixels.shape[-2:]
        side = math.sqrt(rng.uniform(augment.crop, 1))
        h, w = max(1, round(height * side)), max(1, round(width * side))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        window = pixels[None, :, top : top + h, left : left + w]
        pixels = F.interpolate(window, (height, width), mode="bilinear", align_corners=False)[0]
    if (augment.flip or augment.dihedral) and rng.random() < 0.5:
        pixels = pixels.flip(-1)
    if augment.dihedral:
        pixels = torch.rot90(pixels, int(rng.integers(4)), (-2, -1))
    if augment.colour:
        brightness, contrast = rng.uniform(-augment.colour, augment.colour, 2) / 2
        pixels = ((pixels - 0.5) * (1 + contrast) + 0.5 + brightness).clamp(0, 1)
    return pixels


def average_precision(scores: npt.NDArray[Any], labels: npt.NDArray[Any], ignore: npt.NDArray[Any]) -> float:
    """Area under the precision-recall curve of one class (no interpolation); NaN without a positive.

    Equal scores are taken together, so the order of samples does not matter.
    """
    scores, labels = scores[~ignore.astype(bool)], labels[~ignore.astype(bool)].astype(bool)
    if not labels.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.append(np.nonzero(np.diff(scores[order]))[0], len(order) - 1)  # end of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Examples, device: torch.device, batch_size: int = 64) -> npt.NDArray[Any]:
    """Average precision per class [L]."""
    model.eval()
    scores, labels, ignore = [], [], []
    for x, y, skip in DataLoader(examples, batch_size):
        scores.append(model(x.to(device)).float().cpu())
        labels.append(y)
        ignore.append(skip)
    columns = zip(*(torch.cat(parts).numpy().T for parts in (scores, labels, ignore)), strict=True)
    return np.array([average_precision(*column) for column in columns])


def masked_bce(logits: Tensor, labels: Tensor, ignore: Tensor, positive_weight: Tensor | None) -> Tensor:
    """Binary cross-entropy, mean over the (image, label) entries that are not ignored."""
    losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight, reduction="none")
    return losses.masked_fill(ignore, 0).sum() / (~ignore).sum().clamp(min=1)


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    recipe: Recipe,
    *,
    device: torch.device,
    workers: int = 0,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Iterator[Epoch]:
    """Train in place, one `Epoch` yielded after each; the model holds the latest weights."""
    model.to(device)
    steps_per_epoch = len(train) // recipe.batch_size
    total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup * steps_per_epoch
    optimiser = torch.optim.AdamW(_parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / max(warmup, 1), 0.5 * (1 + math.cos(math.pi * step / total))),
    )
    positive_weight = _positive_weight(train, recipe).to(device) if recipe.positive_weight == "balanced" else None
    amp = recipe.precision == "amp"
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
    order = torch.Generator().manual_seed(recipe.seed)
    for number in range(recipe.epochs):
        model.train()
        losses = torch.zeros((), device=device)
        epoch = Examples(train.dataset, train.preprocess, train.augment, recipe.seed, number, train.cache)
        batches = DataLoader(
            epoch, recipe.batch_size, shuffle=True, drop_last=True, num_workers=workers, generator=order
        )
        for step, (images, labels, ignore) in enumerate(batches):
            with torch.autocast(device.type, enabled=amp):
                logits = model(images.to(device))
                loss = masked_bce(logits.float(), labels.to(device), ignore.to(device), positive_weight)
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            losses += loss.detach()
            on_step(number * steps_per_epoch + step + 1, total)
        yield Epoch(number + 1, float(losses) / max(steps_per_epoch, 1), evaluate(model, validation, device))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """No weight decay on biases, norms and tokens."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim <= 1 or n.endswith(("cls_token", "pos_embed"))]
    decayed = [p for n, p in named if not (p.ndim <= 1 or n.endswith(("cls_token", "pos_embed")))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _positive_weight(train: Examples, recipe: Recipe) -> Tensor:
    labels = torch.stack([torch.from_numpy(sample.labels) for sample in train.dataset]).float()
    positives = labels.sum(0)
    return ((len(labels) - positives) / positives.clamp(min=1)).clamp(max=100)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator seeded inside (initialisation and drop-out draw from it), as it was outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    recipe: Recipe,
    out: Path,
    *,
    data_root: Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Path:
    """Train from a recipe; writes `<out>/<name>.safetensors` and `<out>/<name>.card.json`; returns the former."""
    from safetensors.torch import save_file

    from xaibench import bundled
    from xaibench.models import STEM, create_module, load_checkpoint, stem_options

    data = {
        split: load_dataset(recipe.dataset.name, data_root=data_root, split=split, **recipe.dataset.options)
        for split in (recipe.dataset.train, recipe.dataset.evaluate)
    }
    train_data, evaluation_data = data[recipe.dataset.train], data[recipe.dataset.evaluate]
    channels, extra_channels = recipe.model.in_chans or STEM, recipe.model.extra_channels
    train_data.check_channels(channels, f"model {recipe.model.name}")
    preprocess = recipe.input.preprocess().for_channels(channels, extra_channels)
    in_memory = len(train_data) * 4 * len(preprocess.mean) * math.prod(preprocess.size) < 2 << 30
    cache: dict[int, tuple[Tensor, Tensor, Tensor]] | None = {} if in_memory and workers == 0 else None
    with seeded(recipe.seed):
        options = {"num_classes": len(train_data.class_names)} | stem_options(recipe.model.options, recipe.model.in_chans)
        model = create_module(recipe.model.name, extra_channels=extra_channels, **options)
        if recipe.model.start is not None:
            start = bundled.weights(recipe.model.start) if recipe.model.start in bundled.names() else Path(recipe.model.start)
            load_checkpoint(model, start, skip_different=True, into=recipe.model.into, extra_channels=extra_channels)
        epochs = fit(
            model,
            Examples(train_data, preprocess, recipe.augment, recipe.seed, 0, cache),
            Examples(evaluation_data, preprocess, cache=None if cache is None else {}),
            recipe,
            device=torch.device(device),
            workers=workers,
            on_step=on_step,
        )
        for epoch in epochs:
            on_epoch(epoch)
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{recipe.name}.safetensors"
    temporary = weights.with_suffix(".tmp")
    save_file({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    os.replace(temporary, weights)
    card = describe(recipe, epoch, train_data.class_names, weights, evaluation_data)
    (out / f"{recipe.name}.card.json").write_text(json.dumps(card, indent=2) + "\n")
    return weights


def describe(recipe: Recipe, epoch: Epoch, classes: tuple[str, ...], weights: Path, data: Dataset) -> Mapping[str, Any]:
    """The card of a trained model: what a reader needs in order to trust or repeat it."""
    return {
        "name": recipe.name,
        "train": f"xaibench train {recipe.name}",
        "data": {"name": data.name, "revision": data.revision, "evaluated_on": data.split, "samples": len(data)},
        "mean_average_precision": round(epoch.mean_average_precision, 5),
        "average_precision": {c: round(float(v), 5) for c, v in zip(classes, epoch.average_precision, strict=True)},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "recipe": recipe.model_dump(mode="json"),
    }


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML. Raises ProblemsError with every problem of the file."""
    document = Document.read(path)
    recipe = document.validate(Recipe)
    document.raise_problems()
    assert recipe is not None
    return recipe
