"""The training loop, with a state on disk after each epoch.

After kill -9 the same command continues after the last finished epoch and ends with the same weights as without the
interruption: the state holds everything that the next step depends on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from xaibench.core.atomic_files import whole_file, write_text
from xaibench.core.errors import UsageError
from xaibench.data import Dataset, load_dataset
from xaibench.models import bundled
from xaibench.models.architectures import constructor_options, create_module, seeded
from xaibench.models.checkpoints import RGB, load_state, read_card, read_checkpoint
from xaibench.models.training.examples import Examples
from xaibench.models.training.kernel_usage import fold, regularise
from xaibench.models.training.log import Epoch, Log
from xaibench.models.training.quality import evaluate
from xaibench.models.training.recipe import Recipe
from xaibench.models.training.result import card_of, describe, write_weights

MEMORY = 2 << 30  # a data set below this many bytes is decoded once and kept


class Fit:
    """A model in training, and everything that its next step depends on."""

    def __init__(self, model: nn.Module, train: Examples, recipe: Recipe, device: torch.device, workers: int) -> None:
        self.model, self.train, self.recipe = model.to(device), train, recipe
        self.device, self.workers = device, workers
        self.epoch = 0
        self.steps_per_epoch = len(train) // recipe.batch_size // recipe.accumulate
        if self.steps_per_epoch < 1:
            raise UsageError(
                f"recipe {recipe.name}: {len(train)} training images make no step of {recipe.batch_size} x "
                f"{recipe.accumulate} (batch_size x accumulate)"
            )
        self.steps = recipe.epochs * self.steps_per_epoch
        self.optimiser = _optimiser(model, recipe)
        self.schedule = _schedule(self.optimiser, recipe, self.steps, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "amp" and device.type == "cuda")
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.positive_weight = _positive_weight(train, recipe).to(device)
        self.average = (
            None
            if recipe.ema is None
            else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        )

    @property
    def result(self) -> nn.Module:
        """The model to keep: the average of weights where there is one."""
        return self.model if self.average is None else self.average.module

    def run_epoch(self, on_step: Callable[[int, int], None]) -> float:
        """One pass over the training images; returns the mean loss."""
        recipe, done = self.recipe, self.epoch * self.steps_per_epoch
        self.model.train()
        losses = torch.zeros((), device=self.device)
        batches = iter(
            DataLoader(
                self.train.of_epoch(self.epoch),
                recipe.batch_size,
                shuffle=True,
                drop_last=True,
                generator=self.order,
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
            )
        )
        for step in range(self.steps_per_epoch):
            for _ in range(recipe.accumulate):
                loss = self._loss(*(part.to(self.device, non_blocking=True) for part in next(batches)))
                self.scaler.scale(loss / recipe.accumulate).backward()
                losses += loss.detach()
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
            self.scaler.step(self.optimiser)
            self.scaler.update()
            self.optimiser.zero_grad()
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            on_step(done + step + 1, self.steps)
        self.epoch += 1
        return float(losses) / (self.steps_per_epoch * recipe.accumulate)

    def _loss(self, images: Tensor, labels: Tensor, ignore: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=self.recipe.precision == "amp"):
            logits = self.model(images)
        return masked_bce(logits.float(), labels, ignore, self.positive_weight)

    # -- the state on disk --------------------------------------------------------------------------------------

    def save(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Write the state whole or not at all. `rows` is the log so far."""
        state = {
            "recipe": self.recipe.model_dump(mode="json"),
            "epoch": self.epoch,
            "log": rows,
            **{name: part.state_dict() for name, part in self._parts().items()},
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        with whole_file(path) as file:
            torch.save(state, file)

    def resume(self, path: Path) -> list[dict[str, Any]]:
        """Restore a state; returns its log. Raises UsageError for the state of another recipe."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        now = self.recipe.model_dump(mode="json")
        if changed := [key for key in now if state["recipe"].get(key) != now[key]]:
            raise UsageError(
                f"{path} was left by a training with other values of {', '.join(changed)}; remove it to start anew, or "
                "choose another --out"
            )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.epoch = int(state["epoch"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
        return list(state["log"])

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}


def masked_bce(logits: Tensor, labels: Tensor, ignore: Tensor, positive_weight: Tensor | None) -> Tensor:
    """Binary cross-entropy, mean over the (image, label) entries that are not ignored."""
    losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight, reduction="none")
    return losses.masked_fill(ignore, 0).sum() / (~ignore).sum().clamp(min=1)


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """No weight decay on biases, norms and tokens."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim <= 1 or n.endswith(("cls_token", "pos_embed"))]
    decayed = [p for n, p in named if not (p.ndim <= 1 or n.endswith(("cls_token", "pos_embed")))]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.optimiser == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _schedule(
    optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "one_cycle":
        # one step more than are taken: the last would have a learning rate of 0
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps + 1)
    warmup = recipe.warmup * steps_per_epoch
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / max(warmup, 1), 0.5 * (1 + math.cos(math.pi * step / steps)))
    )


def _positive_weight(train: Examples, recipe: Recipe) -> Tensor:
    """[L], 1 where positives count like negatives."""
    count = len(train.dataset.class_names)
    if recipe.positive_weight == "none":
        return torch.ones(count)
    if isinstance(recipe.positive_weight, list):
        if len(recipe.positive_weight) != count:
            raise UsageError(
                f"recipe {recipe.name}: positive_weight has {len(recipe.positive_weight)} values, "
                f"{train.dataset.name} has {count} classes"
            )
        return torch.tensor(recipe.positive_weight)
    labels = torch.stack([torch.from_numpy(sample.known_labels) for sample in train.dataset]).float()
    positives = labels.sum(0)
    return ((len(labels) - positives) / positives.clamp(min=1)).clamp(max=100)


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
    """Train from a recipe, or continue an earlier attempt that was interrupted.

    Writes `<name>.safetensors`, `<name>.card.json` and `<name>.log.csv` into `out`; returns the first. While it runs,
    `<name>.state.pt` holds the last finished epoch.

    Raises:
        UsageError: parts that do not fit: classes of a start checkpoint, the state of a training with other settings
    """
    data = {
        split: load_dataset(recipe.dataset.name, data_root=data_root, split=split, **recipe.dataset.options)
        for split in (recipe.dataset.train, recipe.dataset.evaluate)
    }
    train_data, evaluation_data = data[recipe.dataset.train], data[recipe.dataset.evaluate]
    channels = recipe.model.in_chans or RGB
    train_data.check_channels(channels, f"model {recipe.model.name}")
    preprocess = recipe.input.preprocess().for_channels(channels, recipe.model.extra_channels)
    bytes_needed = len(train_data) * 4 * len(preprocess.mean) * math.prod(preprocess.size)
    keep = bytes_needed < MEMORY and workers == 0
    out.mkdir(parents=True, exist_ok=True)
    state = out / f"{recipe.name}.state.pt"
    with seeded(recipe.seed):
        model = _start(recipe, train_data)
        examples = Examples(train_data, preprocess, recipe.augment, recipe.seed, 0, {} if keep else None)
        validation = Examples(evaluation_data, preprocess, cache={} if keep else None)
        fit = Fit(model, examples, recipe, torch.device(device), workers)
        log = Log(out / f"{recipe.name}.log.csv", train_data.class_names, fit.resume(state) if state.is_file() else [])
        for epoch in _epochs(fit, validation, on_step):
            log.add(epoch)
            fit.save(state, log.rows)
            on_epoch(epoch)
        quality = evaluate(fit.result, validation, fit.device, workers=workers)
    fold(fit.result)  # an ordinary model is written, whose last layer holds the effective kernel
    weights, card = out / f"{recipe.name}.safetensors", card_of(recipe, preprocess, evaluation_data)
    write_weights(weights, fit.result, card)
    facts = describe(recipe, card, quality, weights, evaluation_data)
    write_text(out / f"{recipe.name}.card.json", json.dumps(facts, indent=2) + "\n")
    state.unlink()
    return weights


def _start(recipe: Recipe, data: Dataset) -> nn.Module:
    """The model before its first step."""
    options = {"num_classes": len(data.class_names)} | constructor_options(recipe.model.options, recipe.model.in_chans)
    extra_channels = recipe.model.extra_channels
    model = create_module(
        recipe.model.name, pretrained=recipe.model.pretrained, extra_channels=extra_channels, **options
    )
    if (start := recipe.model.start) is not None:
        path, into = bundled.weights(start) if start in bundled.names() else Path(start), recipe.model.into
        weights, card, origin = read_checkpoint(path), read_card(path), f"checkpoint {path}"
        if not into and len(card.classes) == len(data.class_names):  # else the head is left out
            card.check_classes(data.class_names, origin)
        load_state(model, weights, origin, skip_different=True, into=into, extra_channels=extra_channels)
    return model if recipe.kur is None else regularise(model, recipe.kur.alpha)


def _epochs(fit: Fit, validation: Examples, on_step: Callable[[int, int], None]) -> Iterator[Epoch]:
    """The epochs that are left, one `Epoch` yielded after each."""
    while fit.epoch < fit.recipe.epochs:
        started = time.monotonic()
        loss = fit.run_epoch(on_step)
        quality = evaluate(fit.result, validation, fit.device, workers=fit.workers)
        rate = float(fit.optimiser.param_groups[0]["lr"])
        yield Epoch(fit.epoch, fit.epoch * fit.steps_per_epoch, loss, rate, time.monotonic() - started, quality)
