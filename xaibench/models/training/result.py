"""What a training leaves: weights with a card in their metadata, and the card's file with the quality."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from xaibench.core.atomic_files import whole_file
from xaibench.data import Dataset
from xaibench.data.preprocess import Preprocess
from xaibench.models.card import Card, DataFacts, InputSection
from xaibench.models.training.quality import Quality
from xaibench.models.training.recipe import Recipe


def card_of(recipe: Recipe, preprocess: Preprocess, data: Dataset) -> Card:
    """What the weights of a recipe are trained for."""
    return Card(
        name=recipe.name,
        architecture=recipe.model.name,
        options=recipe.model.options,
        input=InputSection.of(vars(preprocess)),
        classes=data.class_names,
        data=DataFacts(name=data.name, revision=data.revision),
    )


def write_weights(path: Path, module: nn.Module, card: Card) -> None:
    """Write the state of a module as safetensors, with a card in the metadata."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    with whole_file(path) as file:  # not save_file, whose file only its owner may read, whatever the umask says
        file.write(save(tensors, metadata=card.metadata()))


def describe(recipe: Recipe, card: Card, quality: Quality, weights: Path, data: Dataset) -> dict[str, Any]:
    """The card's file: everything a reader needs in order to load, to trust or to repeat a model.

    Args:
        data: the split that `quality` was measured on
    """

    def per_class(name: str) -> dict[str, float | None]:
        values = getattr(quality, name)
        return {c: None if math.isnan(v) else round(float(v), 5) for c, v in zip(card.classes, values, strict=True)}

    return {
        "name": recipe.name,
        "train": f"xaibench train {recipe.name}",
        **card.model_dump(mode="json", include={"architecture", "options", "input", "classes"}, exclude_none=True),
        "data": {**card.data.model_dump(), "evaluated_on": data.split, "samples": len(data)},
        "mean_average_precision": round(quality.mean("average_precision"), 5),
        "mean_f1": round(quality.mean("f1"), 5),
        "mean_f2": round(quality.mean("f2"), 5),
        "average_precision": per_class("average_precision"),
        "f1": per_class("f1"),
        "f2": per_class("f2"),
        "best_threshold": per_class("best_threshold"),
        "f1_at_best_threshold": per_class("best_f1"),
        "f2_at_best_threshold": per_class("best_f2"),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "recipe": recipe.model_dump(mode="json"),
    }
