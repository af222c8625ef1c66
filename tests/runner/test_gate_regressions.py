"""The gate on real runs: subtle bugs that are planted in methods are found, and repetitions of a method raise no alarm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor, einsum
from torch.nn import functional as F

import xaibench
from tests.support.console import call
from xaibench import Forward, Pairs, method
from xaibench.core import registry

METHODS = {
    "deep": "{name: grad_cam, layer: layer3, as: deep}",
    "minmax": "{name: minmax_cam, as: minmax}",
    "bilinear": "{name: cam, as: bilinear}",
}
BUGS = {
    "deep": "{name: grad_cam_without_mean, as: deep}",
    "minmax": "{name: minmax_wrong_divisor, as: minmax}",
    "bilinear": "{name: cam_nearest, as: bilinear}",
}
DRAWS = ["{name: smooth_grad, samples: 2}", "{name: expected_gradients, samples: 2}", "random"]


@pytest.fixture(scope="module")
def planted() -> Iterator[None]:
    """Three methods with a bug each, registered for the tests of this file."""
    list(registry.methods)
    before = dict(registry.methods._entries)

    @method(needs=("features", "gradients"), source="xaibench")
    def grad_cam_without_mean(forward: Forward, pairs: Pairs) -> Tensor:
        """Grad-CAM whose weights are not averaged over positions."""
        weights, features = forward.gradients(pairs, "layer3"), forward.features("layer3")[pairs.image]
        return einsum("pkhw,pkhw->phw", weights, features)

    @method(needs=("features", "linear_head"), source="xaibench")
    def minmax_wrong_divisor(forward: Forward, pairs: Pairs) -> Tensor:
        """MinMax-CAM that divides by the detected labels, its own among them: W_u - sum_N W_n / c."""
        detected = forward.detected[pairs.image].to(forward.head_weight).scatter(1, pairs.label[:, None], 1)
        own, total = forward.head_weight[pairs.label], detected @ forward.head_weight
        weights = own - (total - own) / detected.sum(1, keepdim=True)
        return einsum("pk,pkhw->phw", weights, forward.features("last")[pairs.image])

    @method(needs=("features", "linear_head"), source="xaibench")
    def cam_nearest(forward: Forward, pairs: Pairs) -> Tensor:
        """CAM that is enlarged by nearest neighbours."""
        features = forward.features("last")[pairs.image]
        maps = einsum("pk,pkhw->phw", forward.head_weight[pairs.label], features)
        return F.interpolate(maps[:, None], forward.images.shape[2:], mode="nearest")[:, 0]

    yield
    registry.methods._entries = before


def run(out: Path, methods: list[str], samples: int, seed: int = 0, *more: str) -> Path:
    """The embedded suite `shapes` on the CNN, with some of its methods."""
    overrides = [f"dataset.samples={samples}", "models=[shapes-resnet]", f"methods=[{', '.join(methods)}]"]
    unset = ["quick=null", "leaderboard={}"]
    xaibench.run("shapes", out=out, batch_size=32, workers=0, overrides=[*overrides, *unset, f"seed={seed}", *more])
    return out


@pytest.mark.slow
def test_planted_bugs_are_found(planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = run(tmp_path / "base", list(METHODS.values()), 256)
    broken = run(tmp_path / "broken", list(BUGS.values()), 256)
    for label in METHODS:
        assert call(monkeypatch, "compare", base, base, "--method", label) == 0
        assert call(monkeypatch, "compare", base, broken, "--method", label) == 1, f"{label}: the bug is not found"


@pytest.mark.slow
def test_twenty_seeds_raise_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that draw random numbers, on the same images. The control is judged as a method."""
    base = run(tmp_path / "base", DRAWS, 256)
    for seed in range(1, 21):
        again = run(tmp_path / f"seed{seed}", DRAWS, 256, seed)
        assert call(monkeypatch, "compare", base, again, "--controls") == 0, f"seed {seed}"


def test_a_planted_bug_is_found_on_few_images(planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with fewer images and metrics, in seconds."""
    few = "metrics=[energy_pointing_game, sparseness]"
    base = run(tmp_path / "base", [METHODS["deep"]], 32, 0, few)
    broken = run(tmp_path / "broken", [BUGS["deep"]], 32, 0, few)
    assert call(monkeypatch, "compare", base, base) == 0
    assert call(monkeypatch, "compare", base, broken) == 1
