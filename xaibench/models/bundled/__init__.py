"""Models that come with xaibench: in this folder are their weights, the recipes that trained them, and their cards."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from xaibench.core.errors import MissingError, UsageError, unknown
from xaibench.models.card import Card

FOLDER = Path(__file__).parent
CARD = ".card.json"


@cache
def names() -> tuple[str, ...]:
    """Names of the bundled models."""
    return tuple(sorted(path.name.removesuffix(CARD) for path in FOLDER.glob(f"*{CARD}")))


def recipe_path(name: str) -> Path:
    """The recipe that trained a bundled model."""
    return _path(name, ".yaml")


def weights(name: str) -> Path:
    """The weights of a bundled model. Raises MissingError where they are not there."""
    path = _path(name, ".safetensors")
    if not path.is_file():
        raise MissingError(f"{path} is missing; train it again: xaibench train {name} --out {FOLDER}")
    return path


def facts(name: str) -> dict[str, Any]:
    """The whole card of a bundled model: architecture, input, classes, data, recipe, quality per class, sha256."""
    loaded: dict[str, Any] = json.loads(_path(name, CARD).read_text(encoding="utf-8"))
    return loaded


def card(name: str) -> Card:
    """The part of the card that loading the model needs."""
    return Card.model_validate(facts(name))


def _path(name: str, suffix: str) -> Path:
    if name not in names():
        raise UsageError(unknown("bundled model", name, names()) + "; or give the path of a .yaml recipe")
    return FOLDER / f"{name}{suffix}"
