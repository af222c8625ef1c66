"""Models that come with xaibench: weights, the recipe that trained them, and a card, all in this folder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaibench.core.errors import MissingError, UsageError, unknown

if TYPE_CHECKING:
    from xaibench.models.training import Recipe

FOLDER = Path(__file__).parent


@cache
def names() -> tuple[str, ...]:
    """Names of the bundled models."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def recipe_path(name: str) -> Path:
    if name not in names():
        raise UsageError(unknown("bundled model", name, names()) + "; or give the path of a .yaml recipe")
    return FOLDER / f"{name}.yaml"


def recipe(name: str) -> Recipe:
    """The recipe that trained a bundled model."""
    from xaibench.models.training import read_recipe

    return read_recipe(recipe_path(name))


def weights(name: str) -> Path:
    path = recipe_path(name).with_suffix(".safetensors")
    if not path.is_file():
        raise MissingError(f"{path} is missing; train it again: xaibench train {name} --out {FOLDER}")
    return path


def card(name: str) -> dict[str, Any]:
    """Data, recipe, seed, AP per class and sha256 of a bundled model."""
    loaded: dict[str, Any] = json.loads(recipe_path(name).with_suffix(".card.json").read_text(encoding="utf-8"))
    return loaded


def classes(name: str) -> tuple[str, ...]:
    from xaibench.core import registry

    return tuple(registry.datasets[recipe(name).dataset.name].classes)
