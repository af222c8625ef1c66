"""shapes: a procedural multi-label data set with exact masks, so that the default suite needs no download.

Eight classes are defined by SHAPE alone; colour, texture, size and rotation are random and say nothing about the
class. Each image holds one to four objects on textured low-frequency noise, which may overlap: masks are modal (what
is seen). Classes come in partner pairs that meet more often than chance, because that is what a multi-label
explanation must see through: a classifier may call a `square` partly because there is a `circle`.

Sample i of a split is a pure function of (seed, split, i). Only `Generator.random` of PCG64 is drawn from, whose
stream numpy keeps stable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from xaibench.datasets.base import Dataset, Sample, dataset

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CLASSES = ("circle", "square", "triangle", "star", "cross", "ring", "hexagon", "crescent")
PARTNER = {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4, 6: 7, 7: 6}
PARTNER_PROBABILITY = 0.5  # that the next object is the partner of the one before; chance alone would be 1/8
SPLITS = {"train": 6000, "val": 1000, "test": 1000}
SIZE = 96
MIN_RADIUS, MAX_RADIUS = 12.0, 22.0
MIN_VISIBLE = 0.5  # of an object's area; a placement that hides more of any object is drawn again
PLACEMENTS = 30
REVISION = "1"

# A shape is an inside test on coordinates (x, y) in units of its radius, y pointing down.


def _regular_polygon(x: Floats, y: Floats, sides: int, inradius: float) -> Bools:
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    return np.asarray(np.stack([x * np.sin(a) - y * np.cos(a) <= inradius for a in angles]).all(0))


def _star(x: Floats, y: Floats) -> Bools:
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)  # 0 at a tip, sector / 2 in a notch
    inner, half = 0.42, sector / 2
    edge = inner * np.sin(half) / (np.sin(half - angle) * inner + np.sin(angle))  # the line from tip to notch
    return np.asarray(np.hypot(x, y) <= edge)


SHAPES: tuple[Callable[[Floats, Floats], Bools], ...] = (
    lambda x, y: np.hypot(x, y) <= 0.9,
    lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.78,
    lambda x, y: _regular_polygon(x, y, 3, 0.52),
    _star,
    lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.26) & (np.maximum(np.abs(x), np.abs(y)) <= 0.92),
    lambda x, y: (np.hypot(x, y) <= 0.95) & (np.hypot(x, y) >= 0.5),
    lambda x, y: _regular_polygon(x, y, 6, 0.8),
    lambda x, y: (np.hypot(x, y) <= 0.95) & (np.hypot(x - 0.42, y) >= 0.74),
)


@dataset(classes=CLASSES, splits=tuple(SPLITS), masks=True, source="procedural; xaibench")
class shapes(Dataset):
    """Eight shapes, one to four per 96 x 96 RGB image, exact masks; generated, nothing to download."""

    def __init__(
        self, *, split: Literal["train", "val", "test"] = "test", samples: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(split=split)
        self.samples = SPLITS[split] if samples is None else samples
        self.seed = seed

    @property
    def revision(self) -> str:
        return hashlib.sha256(repr((REVISION, self.seed)).encode()).hexdigest()[:16]

    @property
    def ids(self) -> list[str]:
        return [f"{self.split}-{index:06d}" for index in range(self.samples)]

    def load(self, index: int) -> Sample:
        image, mask = draw(self.seed, self.split, index)
        labels = np.zeros(len(CLASSES), np.uint8)
        labels[np.unique(mask[mask > 0]) - 1] = 1
        return Sample(
            id=self.ids[index],
            image=Image.fromarray(image),
            labels=labels,
            ignore=np.zeros_like(labels),
            mask=mask,
            source=f"shapes(seed={self.seed}, split={self.split}, index={index})",
        )


def draw(seed: int, split: str, index: int, size: int = SIZE) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Image [size, size, 3] and mask [size, size] (0 background, class + 1) of one sample."""
    rng = np.random.Generator(np.random.PCG64([seed, list(SPLITS).index(split), index]))
    canvas = _texture(rng, size)
    labels, insides = _place(rng, _choose_classes(rng), size)
    mask = np.zeros((size, size), np.uint8)
    for label, inside in zip(labels, insides, strict=True):
        texture = _texture(rng, size)
        # a shade that differs from what lies behind, else the shape could not be seen at all
        contrast = np.abs(texture[inside].mean(0) - canvas[inside].mean(0)).sum()
        if contrast < 0.55:
            texture = (texture + 0.5) % 1.0
        canvas[inside] = texture[inside]
        mask[inside] = label + 1
    noise = 0.04 * (rng.random((size, size, 3)) - 0.5)
    return (255 * np.clip(canvas + noise, 0, 1)).round().astype(np.uint8), mask


def _choose_classes(rng: Any) -> list[int]:
    count = 1 + int(rng.random() * 4)
    chosen = [int(rng.random() * len(CLASSES))]
    while len(chosen) < count:
        partner = rng.random() < PARTNER_PROBABILITY
        chosen.append(PARTNER[chosen[-1]] if partner else int(rng.random() * len(CLASSES)))
    return chosen


def _place(rng: Any, labels: list[int], size: int) -> tuple[list[int], list[Bools]]:
    """Inside masks in painting order; an object that finds no place where all stay visible is left out."""
    y, x = np.mgrid[:size, :size] + 0.5
    kept: list[int] = []
    insides: list[Bools] = []
    for label in labels:
        for _ in range(PLACEMENTS):
            radius = MIN_RADIUS + rng.random() * (MAX_RADIUS - MIN_RADIUS)
            cx, cy = radius + rng.random(2) * (size - 2 * radius)
            angle = 2 * np.pi * rng.random()
            u, v = (x - cx) / radius, (y - cy) / radius
            inside = SHAPES[label](u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle))
            visible = [(old & ~inside & ~_union(insides[i + 1 :], inside)).sum() for i, old in enumerate(insides)]
            if all(v >= MIN_VISIBLE * old.sum() for v, old in zip(visible, insides, strict=True)):
                kept.append(label)
                insides.append(inside)
                break
    return kept, insides


def _union(insides: list[Bools], like: Bools) -> Bools:
    return np.logical_or.reduce(insides) if insides else np.zeros_like(like)


def _texture(rng: Any, size: int) -> Floats:
    """[size, size, 3] in [0, 1]: a random colour modulated by stripes, checks, blotches or nothing."""
    colour = rng.random(3)
    kind = int(rng.random() * 4)
    coarse, depth = _low_frequency(rng, size), 0.15 + 0.35 * rng.random()
    y, x = np.mgrid[:size, :size] / size
    angle, frequency, phase = np.pi * rng.random(), 8 + 14 * rng.random(), 2 * np.pi * rng.random()
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    pattern = (
        np.zeros_like(u),
        np.sign(np.sin(2 * np.pi * frequency * u + phase)),
        np.sign(np.sin(2 * np.pi * frequency * u + phase) * np.sin(2 * np.pi * frequency * v)),
        4 * _low_frequency(rng, size, cells=18),
    )[kind]
    shade = 0.5 * depth * pattern + 0.6 * coarse
    return np.asarray(np.clip(colour + shade[..., None] * (0.6 + 0.4 * rng.random(3)), 0, 1))


def _low_frequency(rng: Any, size: int, cells: int = 5) -> Floats:
    """[size, size] around 0: random values on a coarse grid, bilinearly between."""
    position = np.linspace(0, cells - 1, size)
    weight = np.clip(1 - np.abs(position[:, None] - np.arange(cells)), 0, None)  # [size, cells]
    return np.asarray(weight @ (rng.random((cells, cells)) - 0.5) @ weight.T)
