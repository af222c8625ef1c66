"""`Recipe`: everything that decides trained weights, read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from xaibench.core.registry.bounds import (
    ExtraChannels,
    Interpolation,
    Natural,
    Positive,
    PositiveFraction,
    Resize,
    Side,
)
from xaibench.core.yaml.document import Document, Section
from xaibench.data.preprocess import Preprocess
from xaibench.models.card import InputSection


class DataSection(Section):
    """Which data set, with its options; `train` and `evaluate` are the names of splits."""

    name: str
    train: str = "train"
    evaluate: str = "val"
    options: dict[str, Any] = {}


class ModelSection(Section):
    """A timm model or a bundled architecture.

    `start` is a checkpoint to fine-tune from (a bundled model's name, or a file; a head of another size is left out),
    `into` the submodule that takes it; `pretrained` lets timm fetch its own weights (needs a network). `in_chans` is the
    number of input channels where it is not 3, `extra_channels` how a first convolution of three channels, mean and std
    become those of `in_chans`: see `xaibench.models.checkpoints.stem_for`.
    """

    name: str
    options: dict[str, Any] = {}
    pretrained: bool = False
    start: str | None = None
    into: str = ""
    in_chans: int | None = pydantic.Field(None, ge=1)
    extra_channels: ExtraChannels | None = None


class TrainingInput(InputSection):
    """Input geometry and normalisation, complete: what is left out has the defaults of `Preprocess`."""

    size: Side | tuple[Side, Side]
    resize: Resize = Preprocess.resize
    mean: tuple[float, ...] = Preprocess.mean
    std: tuple[Positive, ...] = Preprocess.std
    crop: PositiveFraction = Preprocess.crop
    interpolation: Interpolation = Preprocess.interpolation

    def preprocess(self) -> Preprocess:
        return self.over(Preprocess(size=(1, 1)))


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


class KurSection(Section):
    """Kernel Usage Regularization of the last layer: W · alpha softmax over labels (W) in place of W."""

    alpha: float = pydantic.Field(1.0, gt=0)


class Recipe(Section):
    """Everything that decides the trained weights."""

    name: str
    seed: Natural = 0
    dataset: DataSection
    model: ModelSection
    input: TrainingInput
    augment: AugmentSection = AugmentSection()
    epochs: int = pydantic.Field(20, ge=1)
    batch_size: int = pydantic.Field(32, ge=2)
    accumulate: int = pydantic.Field(1, ge=1, description="batches whose gradients are added up to one step")
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = pydantic.Field(0.9, ge=0, lt=1, description="of sgd (Nesterov)")
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    warmup: float = pydantic.Field(1.0, ge=0, description="epochs of linear warm-up before the cosine")
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    weight_decay: float = pydantic.Field(0.05, ge=0)
    clip: float = pydantic.Field(1.0, gt=0, description="largest gradient norm")
    positive_weight: Literal["none", "balanced"] | list[Annotated[float, pydantic.Field(gt=0)]] = pydantic.Field(
        "none", description="of each class in the cross-entropy: negatives per positive (balanced), or given one by one"
    )
    ema: float | None = pydantic.Field(None, gt=0, lt=1, description="decay of the average of weights that is kept")
    kur: KurSection | None = None
    precision: Literal["float32", "amp"] = "float32"


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML. Raises ProblemsError with every problem of the file."""
    document = Document.read(path)
    recipe = document.validate(Recipe)
    document.raise_problems()
    assert recipe is not None
    return recipe
