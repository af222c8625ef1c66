"""`xaibench train`: a training with its progress, its files and the picture of its curves."""

from __future__ import annotations

from pathlib import Path

from xaibench.cli import figures
from xaibench.cli.console import Bars, ProgressMode, err, note
from xaibench.core.errors import MissingError, UsageError
from xaibench.models import bundled
from xaibench.models.training import Epoch, Recipe, read_recipe
from xaibench.models.training import train as fit


def train(
    name: str, directory: Path, *, data_root: Path | None, device: str, workers: int, progress: ProgressMode
) -> None:
    """Train from a recipe (a file, or a bundled model's name) and draw its curves where matplotlib is installed.

    Raises:
        UsageError: no such recipe, a mistake in it, or parts that do not go together
        MissingError: data or weights that are not there
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else bundled.recipe_path(name)
    if not path.is_file():
        raise UsageError(f"recipe {name}: no such file")
    recipe = read_recipe(path)
    with Bars(progress).showing() as bars:
        report = _Progress(recipe, bars)
        weights = fit(
            recipe,
            directory,
            data_root=data_root,
            device=device,
            workers=workers,
            on_epoch=report.epoch,
            on_step=report.step,
        )
    names = [weights.name, f"{recipe.name}.card.json", f"{recipe.name}.log.csv"]
    try:
        curve = directory / f"{recipe.name}.curve.png"
        figures.save(figures.draw_curves(directory / f"{recipe.name}.log.csv"), curve)
        names.append(curve.name)
    except MissingError:
        note('curves are drawn where matplotlib is installed: pip install "xaibench[figures]"')
    err.print(f"written to {directory}/: {', '.join(names)}", markup=False)


class _Progress:
    """Steps of a training as images on a bar, and a message for each epoch."""

    def __init__(self, recipe: Recipe, bars: Bars) -> None:
        self.recipe, self.bars = recipe, bars
        self.images_per_step = recipe.batch_size * recipe.accumulate
        self.done: int | None = None  # steps

    def step(self, step: int, steps: int) -> None:
        if self.done is None:  # the bar of a resumed training begins at the step where it was interrupted
            self.done = step - 1
            self.bars.start(self.recipe.name, (steps - self.done) * self.images_per_step)
        self.bars.advance((step - self.done) * self.images_per_step)
        self.done = step

    def epoch(self, epoch: Epoch) -> None:
        quality = epoch.quality
        self.bars.note(
            f"epoch {epoch.number}/{self.recipe.epochs}: loss {epoch.loss:.4f}, "
            f"mAP {quality.mean('average_precision'):.4f}, "
            f"F1 {quality.mean('f1'):.4f}, F2 {quality.mean('f2'):.4f}"
        )
