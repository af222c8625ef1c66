"""The perturbation engine: shared curves, a slow twin, invariances, ties and undefined maps, replacements, units."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import xaibench
from tests.support.parameters import taken
from xaibench.core import registry
from xaibench.core.errors import UsageError
from xaibench.core.rank_statistics import tied
from xaibench.data.ground_truth import GroundTruth
from xaibench.data.preprocess import Preprocess
from xaibench.evaluation import Evaluation
from xaibench.evaluation.measure import measure
from xaibench.evaluation.perturbation import Baseline, Removal, Remove, Unit, blur, remover, units
from xaibench.evaluation.perturbation.imputation import impute
from xaibench.evaluation.perturbation.superpixels import slic
from xaibench.forward import Forward, Pairs
from xaibench.suite import parse_metrics

HEIGHT, WIDTH, LABELS = 12, 17, 4
FAMILIES = [name for name in registry.metrics if registry.metrics[name].group in ("perturbation", "correlation")]
QUICK = {  # a few steps and samples are as good as many for what is tested here
    "steps": 3, "samples": 5, "grid": 3,
}  # fmt: skip


def remover_of(own: Evaluation, removal: Removal) -> Remove:
    return remover(own.forward, own.pairs, removal)


def network(channels: int = 3) -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(6 * 12, LABELS)
    )
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4
    return module.double()


def classifier(channels: int = 3, activation: Any = "sigmoid") -> xaibench.Classifier:
    plain = Preprocess((HEIGHT, WIDTH), "none", (0.4,) * channels, (0.3,) * channels)
    return xaibench.Classifier(network(channels), activation=activation, layer="0", preprocess=plain)


def images(count: int = 3, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)


PRESENT = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
PAIRS = Pairs([0, 0, 0, 2, 2], [0, 1, 3, 1, 2])  # three labels, none, two


def maps(pairs: Pairs = PAIRS) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(pairs), 4, 6, generator=generator, dtype=torch.float64)


def evaluation(own: Tensor | None = None, activation: Any = "sigmoid", pairs: Pairs = PAIRS) -> Evaluation:
    forward = Forward(classifier(activation=activation), images(), ground_truth=GroundTruth(present=PRESENT))
    return Evaluation(forward, pairs, maps(pairs) if own is None else own)


def entry(name: str) -> dict[str, Any]:
    return {"name": name, **taken(registry.metrics[name], QUICK)}


def value(name: str, own: Evaluation, **parameters: Any) -> Tensor:
    quick = entry(name)
    if "removal" in parameters:
        parameters["removal"] = quick.get("removal", {}) | parameters["removal"]
    (metric,) = parse_metrics([quick | parameters])
    result: Tensor = metric.entry.function(own, **metric.arguments)
    return result


# -- sharing ------------------------------------------------------------------------------------------------------


def test_five_metrics_cost_two_curves() -> None:
    """2T images a pair go through the model, and those of the untouched images are those of the batch."""
    own = evaluation()
    seen = []
    own.forward.logits  # noqa: B018
    handle = own.forward.classifier.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    same = {"baseline": "mean", "unit": "patch", "grid": 4, "steps": 8}
    for name in ("deletion", "insertion", "srg", "aopc", "selectivity", "selectivity_gap"):
        value(name, own, removal=same)
    handle.remove()
    assert sum(seen) == 2 * 8 * len(PAIRS)


def test_insertion_is_deletion_read_backwards() -> None:
    own = evaluation()
    for baseline in get_args(Baseline):
        inserted, deleted = (
            value(name, own, removal={"baseline": baseline}, order=order)
            for name, order in (("insertion", "morf"), ("deletion", "lerf"))
        )
        assert torch.equal(inserted, deleted)


def test_a_number_of_one_curve() -> None:
    """Selectivity is the clean score minus the trapezoid of the drops that AOPC sums."""
    own = evaluation()
    curve = own.curve("morf", Removal("zero", "patch", 3, None))
    assert curve.removed[0].tolist() == pytest.approx([*np.linspace(0, 1, 10)], abs=0.05)
    torch.testing.assert_close(
        value("selectivity", own, removal={"steps": None}), own.confidence - curve.auc(curve.drop("probability"))
    )
    torch.testing.assert_close(value("aopc", own, removal={"steps": None}), curve.drop("probability").sum(1) / 10)


# -- a slow twin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_slow_twin(order: Any, activation: Any) -> None:
    """One image after the other: own scores, those of the other detected labels, the decision, the share removed."""
    own = evaluation(activation=activation)
    own.forward.classifier.threshold = 0.3
    curve = own.curve(order, Removal("min", steps=7))
    module, activate = own.forward.classifier.module, own.forward.classifier.activate
    for p, (row, label) in enumerate(zip(PAIRS.image.tolist(), PAIRS.label.tolist(), strict=True)):
        image = own.forward.images[row]
        # the border of a resized map is tied but for rounding, which float32 takes out
        relevance = own.relevance[p].flatten().float().tolist()
        sequence = sorted(range(HEIGHT * WIDTH), key=lambda i: relevance[i] * (-1 if order == "morf" else 1))
        with torch.no_grad():
            detected = [n for n in torch.where(activate(module(image[None]))[0] > 0.3)[0].tolist() if n != label]
        for t in range(8):
            count = t * HEIGHT * WIDTH // 7
            changed = image.clone()
            changed.flatten(1)[:, sequence[:count]] = image.min()
            with torch.no_grad():
                logits = module(changed[None])
            scores = activate(logits)[0]
            assert float(curve.logit[p, t]) == pytest.approx(float(logits[0, label]))
            assert float(curve.confidence[p, t]) == pytest.approx(float(scores[label]))
            assert float(curve.removed[p, t]) == pytest.approx(count / (HEIGHT * WIDTH))
            assert int(curve.predicted[p, t]) == int(scores.argmax())
            decided = scores[label] > 0.3 if activation == "sigmoid" else scores.argmax() == label
            assert bool(curve.decided[p, t]) == bool(decided)
            if detected:
                assert float(curve.of_others("probability")[p, t]) == pytest.approx(float(scores[detected].mean()))
                assert float(curve.of_others("logit")[p, t]) == pytest.approx(float(logits[0, detected].mean()))
            else:
                assert curve.of_others("probability")[p, t].isnan()


def test_selectivity_gap() -> None:
    """The area of the drop of c minus that of the others; undefined for an image with one detected label."""
    own = evaluation()
    curve = own.curve("morf", Removal(steps=5))
    gap = value("selectivity_gap", own, removal={"steps": 5})
    for p in range(len(PAIRS)):
        difference = curve.confidence[p] - curve.of_others("probability")[p]
        expected = np.trapezoid((difference[0] - difference).numpy()) / 5
        assert gap[p].numpy() == pytest.approx(expected, nan_ok=True)
    lone = own.forward.detected[PAIRS.image].sum(1) - own.forward.detected[PAIRS.image, PAIRS.label].int() == 0
    assert torch.equal(gap.isnan(), lone)


def test_confidence_change() -> None:
    own = evaluation()
    curve = own.curve("morf", Removal(steps=None, fractions=(0.25,)))
    y, after = own.confidence, curve.confidence[:, 1]
    torch.testing.assert_close(value("confidence_change", own, fraction=0.25), (y - after) / y)
    accuracy = value("confidence_change", own, fraction=0.25, report="accuracy")
    torch.testing.assert_close(accuracy, (after > 0.5).double())


def test_direction_follows_the_order() -> None:
    directions = {
        ("deletion", ()): "lower", ("deletion", ("order", "lerf")): "higher", ("insertion", ("order", "lerf")): "lower",
        ("road", ()): "higher", ("road", ("order", "morf")): "lower", ("perturbation_auc", ()): "lower",
        ("perturbation_auc", ("polarity", "negative")): "higher",
        ("confidence_change", ("report", "accuracy")): "lower",
    }  # fmt: skip
    for (name, parameter), direction in directions.items():
        (metric,) = parse_metrics([{"name": name, **(dict([parameter]) if parameter else {})}])
        assert metric.better == direction, name


# -- invariances --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", get_args(Baseline))
@pytest.mark.parametrize("unit", get_args(Unit))
def test_every_baseline_and_unit(baseline: Any, unit: Any) -> None:
    """The same alone as in a batch, and different from one baseline to the next."""
    removal = Removal(baseline, unit, 3, steps=4)
    whole = evaluation().curve("morf", removal).confidence
    assert whole.isfinite().all()
    one = Forward(classifier(), images()[2:], ids=["2"])
    alone = Evaluation(one, Pairs([0, 0], PAIRS.label[3:]), maps()[3:]).curve("morf", removal).confidence
    torch.testing.assert_close(alone, whole[3:], atol=1e-9, rtol=0)
    for other in set(get_args(Baseline)) - {baseline}:
        assert not torch.allclose(
            whole[:, 1:], evaluation().curve("morf", Removal(other, unit, 3, 4)).confidence[:, 1:]
        )


@pytest.mark.parametrize("channels", [1, 4])
def test_other_than_three_channels(channels: int) -> None:
    forward = Forward(classifier(channels), images(channels=channels))
    for baseline in get_args(Baseline):
        assert Evaluation(forward, PAIRS, maps()).curve("morf", Removal(baseline, steps=3)).confidence.isfinite().all()


def test_float32() -> None:
    """Maps of the image's size: of a smaller one, single and double precision resolve other near-ties at the border."""
    fine = torch.randn(5, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    half = classifier()
    half.module.float()
    own = Evaluation(Forward(half, images().float(), ground_truth=GroundTruth(present=PRESENT)), PAIRS, fine.float())
    for name in FAMILIES:
        assert value(name, own).dtype == torch.float32
        torch.testing.assert_close(
            value(name, own).double(), value(name, evaluation(fine)), atol=1e-3, rtol=1e-3, equal_nan=True
        )


def test_nothing_global_is_touched() -> None:
    own = evaluation()
    own.forward.classifier.module.train()
    state = torch.get_rng_state()
    for name in FAMILIES:
        value(name, own)
    value("deletion", own, removal={"baseline": "noise"}, order="random")
    assert torch.equal(torch.get_rng_state(), state)
    assert own.forward.classifier.module.training
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in own.forward.classifier.module.parameters()
    )


# -- ties and undefined maps ----------------------------------------------------------------------------------------


def test_ties_go_in_raster_order_either_way() -> None:
    flat = evaluation(torch.ones(5, 4, 6, dtype=torch.float64))
    partition = units(flat.forward.images, flat.pairs, "pixel", 1)
    raster = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH).int()
    for order in ("morf", "lerf"):
        assert torch.equal(partition.ranks(flat.relevance[:, None], order)[0, 0], raster)  # type: ignore[arg-type]
    assert torch.equal(value("srg", flat), torch.zeros(5, dtype=torch.float64))


def test_patches_of_a_constant_map_are_tied_whatever_their_size() -> None:
    flat = evaluation(torch.full((5, 4, 6), 0.1, dtype=torch.float64))
    partition = units(flat.forward.images, flat.pairs, "patch", 5)
    assert len(set(partition.sizes[0].tolist())) > 1
    assert torch.equal(partition.ranks(flat.relevance[:, None], "morf")[0], partition.index[0].int())


def test_tied_fraction() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert tied(values).tolist() == [0, 0.75, 1]
    steps = (maps() > 0).double()
    assert evaluation(steps).tied.min() > evaluation().tied.max()


@pytest.mark.parametrize("name", FAMILIES)
def test_difficult_maps(name: str) -> None:
    """Constant, zero, negative and two-valued maps have a value or a stated NaN."""
    lone = (
        evaluation().curve("morf").of_others("probability")[:, 0].isnan()
        if name == "selectivity_gap"
        else torch.zeros(5) > 0
    )
    correlation = registry.metrics[name].unit == "correlation"
    for constant in (0.0, 2.0, -2.0):
        result = value(name, evaluation(torch.full((5, 4, 6), constant, dtype=torch.float64)))
        assert torch.equal(result.isnan(), lone | correlation)
    for own in (-maps().abs() - 1, (maps() > 0).double()):
        assert torch.equal(value(name, evaluation(own)).isnan(), lone)


# -- replacements ---------------------------------------------------------------------------------------------------


def replaced(baseline: Any, **options: Any) -> Tensor:
    """[P, C, H, W] with everything removed."""
    everything = torch.ones(len(PAIRS), 1, HEIGHT, WIDTH, dtype=torch.bool)
    return remover_of(evaluation(), Removal(baseline, **options))(torch.arange(len(PAIRS)), everything)


def test_replacements() -> None:
    own = images()[PAIRS.image]
    assert torch.equal(replaced("zero"), torch.zeros_like(own))
    torch.testing.assert_close(replaced("black"), torch.full_like(own, -0.4 / 0.3))
    torch.testing.assert_close(replaced("mean"), own.mean((2, 3), keepdim=True).expand_as(own))
    assert torch.equal(replaced("min"), own.amin((1, 2, 3), keepdim=True).expand_as(own))
    torch.testing.assert_close(replaced("road", noise=0.0), replaced("mean"))


def test_noise_is_a_draw_per_pair() -> None:
    noise = replaced("noise")
    assert torch.equal(noise, replaced("noise"))
    assert all((noise[i] != noise[j]).all() for i, j in itertools.combinations(range(len(PAIRS)), 2))
    assert (replaced("road", noise=0.5) - replaced("road", noise=0.0)).std().item() == pytest.approx(0.5, rel=0.05)


def test_only_what_is_removed_changes() -> None:
    removed = torch.zeros(len(PAIRS), 1, HEIGHT, WIDTH, dtype=torch.bool)
    removed[:, :, 3:9, 2:8] = True
    own = images()[PAIRS.image]
    for baseline in set(get_args(Baseline)) - {"running_mean"}:
        changed = remover_of(evaluation(), Removal(baseline))(torch.arange(len(PAIRS)), removed)
        different = changed != own
        assert not (different & ~removed).any()
        # the minimum of an image is what min puts there
        assert different[removed.expand_as(own)].double().mean() > 0.98, baseline


@pytest.mark.parametrize(("kernel", "sigma"), [(1, 2.0), (5, 0.7), (11, 5.0), (21, 3.0)])
def test_blur(kernel: int, sigma: float) -> None:
    """scipy's Gaussian of an impulse as a zero-padded kernel, as RISE builds it; also wider than the image."""
    from scipy import ndimage, signal

    impulse = np.zeros((kernel, kernel))
    impulse[kernel // 2, kernel // 2] = 1
    weights = ndimage.gaussian_filter(impulse, sigma)
    blurred = blur(images(), kernel, sigma)
    for b, c in itertools.product(range(3), range(3)):
        np.testing.assert_allclose(blurred[b, c], signal.convolve2d(images()[b, c], weights, mode="same"), atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 17), (1, 9), (33, 5)])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_imputation_solves_its_equations(shape: tuple[int, int], share: float) -> None:
    """Against a dense system written pixel by pixel."""
    generator = torch.Generator().manual_seed(5)
    own = torch.randn(2, 4, *shape, generator=generator, dtype=torch.float64)
    removed = torch.rand(2, 1, *shape, generator=generator) < share
    removed[:, :, 0, 0] = False
    filled = impute(own, removed)
    height, width = shape
    for n in range(2):
        system, known = np.eye(height * width), own[n].flatten(1).numpy().T.copy()
        for i, j in itertools.product(range(height), range(width)):
            if removed[n, 0, i, j]:
                around = [
                    (i + di, j + dj, 1 / 6 if di == 0 or dj == 0 else 1 / 12)
                    for di, dj in itertools.product((-1, 0, 1), repeat=2)
                    if (di or dj) and 0 <= i + di < height and 0 <= j + dj < width
                ]
                known[i * width + j] = 0
                for k, l, weight in around:
                    system[i * width + j, k * width + l] = -weight / sum(w for *_, w in around)
        np.testing.assert_allclose(filled[n].flatten(1).numpy().T, np.linalg.solve(system, known), atol=2e-5)
    torch.testing.assert_close(impute(own[1:], removed[1:]), filled[1:], atol=1e-12, rtol=0)


def test_imputation_of_large_holes_needs_few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a 200 x 160 image in one piece; plain conjugate gradients take hundreds."""
    monkeypatch.setattr("xaibench.evaluation.perturbation.imputation.ITERATIONS", 20)
    generator = torch.Generator().manual_seed(5)
    own = torch.randn(1, 3, 200, 160, generator=generator, dtype=torch.float64)
    removed = torch.zeros(1, 1, 200, 160, dtype=torch.bool)
    removed[:, :, 30:170, 20:140] = True
    short = impute(own, removed)
    monkeypatch.setattr("xaibench.evaluation.perturbation.imputation.ITERATIONS", 500)
    monkeypatch.setattr("xaibench.evaluation.perturbation.imputation.TOLERANCE", 1e-12)
    torch.testing.assert_close(short, impute(own, removed), atol=1e-4, rtol=0)


# -- units ----------------------------------------------------------------------------------------------------------


def test_portions() -> None:
    counts = Removal(steps=10).counts(torch.tensor([50176, 7]))
    assert counts[0].tolist() == [int(50176 * t // 10) for t in range(11)]
    assert counts[1].tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 7]
    assert Removal(steps=None, fractions=(0.29, 1.0)).counts(torch.tensor([100]))[0].tolist() == [0, 29, 100]
    assert Removal(unit="patch", steps=None).counts(torch.tensor([3, 2])).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_images_with_different_numbers_of_segments() -> None:
    """The curve of each ends at its own last segment, where all of the image is gone."""
    own = evaluation()
    flat = own.forward.images.clone()
    flat[2] = flat[2].mean((1, 2), keepdim=True)
    flat[2, :, :, 9:] += 40
    own = Evaluation(Forward(own.forward.classifier, flat), PAIRS, maps())
    removal = Removal("zero", "segment", 5, steps=None)
    curve = own.curve("morf", removal)
    ends = curve.valid.sum(1) - 1
    assert len(set(ends.tolist())) > 1
    assert torch.equal(curve.removed.gather(1, ends[:, None]), torch.ones(5, 1))
    assert torch.equal(curve.confidence.isnan(), ~curve.valid)
    for p in range(5):
        row = curve.confidence[p, : int(ends[p]) + 1].numpy()
        assert curve.auc(curve.confidence)[p] == pytest.approx(np.trapezoid(row) / (len(row) - 1))


def test_superpixels_keep_to_edges() -> None:
    """Two colours in the shape of a disc: no segment reaches across, though cells do."""
    i, j = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    disc = ((i - 20) ** 2 + (j - 30) ** 2 < 14**2).double()
    pictures = torch.stack([disc.expand(3, -1, -1), images(1)[0, :, :1, :1].expand(3, 40, 60)])
    segments = slic(pictures, 6)
    assert segments.shape == (2, 40, 60)
    assert segments.max() < 36
    for number in segments[0].unique():
        inside = disc[segments[0] == number].mean()
        assert inside in (0, 1)
    assert len(segments[1].unique()) == 36
    assert torch.equal(slic(pictures[1:], 6)[0], segments[1])


def test_patches_of_a_grid_finer_than_the_image() -> None:
    """Cells without a pixel are no steps."""
    curve = evaluation().curve("morf", Removal("zero", "patch", 15, steps=None))
    assert curve.valid.sum(1).tolist() == [12 * 15 + 1] * 5
    assert curve.confidence[:, :181].isfinite().all()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"name": "deletion", "removal": {"steps": 0}},
        {"name": "deletion", "removal": {"steps": None}},
        {"name": "deletion", "removal": {"blur_kernel": 4}},
        {"name": "insertion", "removal": {"blur_sigma": 0.0}},
        {"name": "aopc", "removal": {"grid": 0}},
        {"name": "confidence_change", "fraction": 1.5},
        {"name": "road", "removal": {"steps": 1}},
        {"name": "faithfulness_correlation", "fraction": 0.0},
        {"name": "faithfulness_estimate", "removal": {"steps": 1}},
        {"name": "infidelity", "sigma": 0.0},
        {"name": "deletion", "removal": {"baseline": "white"}},
        {"name": "mu_fidelity", "removal": {"baseline": "running_mean"}},
    ],
)
def test_bad_parameters(given: dict[str, Any]) -> None:
    (key,) = (given.get("removal") or given).keys() - {"name"}
    with pytest.raises(UsageError, match=key):
        xaibench.evaluate(classifier(), images(), PAIRS, maps(), [given])


def test_what_a_metric_needs() -> None:
    bare = xaibench.Classifier(network(), layer="0")
    with pytest.raises(UsageError, match="normalisation"):
        xaibench.evaluate(bare, images(), PAIRS, maps(), ["perturbation_auc"], labels=PRESENT)
    with pytest.raises(UsageError, match="labels="):
        xaibench.evaluate(classifier(), images(), PAIRS, maps(), ["perturbation_auc"])


BY_RANK = ("deletion", "insertion", "srg", "aopc", "irof", "road", "pixel_flipping", "selectivity_gap", "tied_fraction")


@pytest.mark.parametrize("name", [*BY_RANK, "faithfulness_estimate"])
@pytest.mark.parametrize("change", [lambda m: m + 1e6, lambda m: m * 2.0**-146, lambda m: m * 2.0**400])
def test_no_shift_and_no_scale_makes_ties(name: str, change: Any) -> None:
    """Maps of float64 are ranked by their place in their own range."""
    (metric,) = parse_metrics([entry(name)])
    found, expected = (measure(evaluation(m), metric).values for m in (change(maps()), maps()))
    np.testing.assert_allclose(found, expected, atol=1e-6)
