"""Gaussian modalities: their limits, compared with closed forms and with discriminants fitted to the samples."""

import json
import math
from pathlib import Path

import numpy as np
import prepare
import pytest
from mmpareto.data.modalities import (
    INFORMATIVE,
    Design,
    GaussianModalities,
    bayes_accuracies,
    bayes_accuracy,
    design,
    draw,
)
from mmpareto.errors import InputError

SAMPLES = 20_000


def samples_of(model: Design, part: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    labels = np.arange(SAMPLES) % len(model.means)
    return draw(model, labels, seed=5, part=part), labels


def class_means(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([inputs[labels == label].mean(0) for label in np.unique(labels)])


def discriminant_accuracy(model: Design, names: list[str]) -> float:
    """Accuracy, on fresh samples, of a linear discriminant whose means and covariance are estimated from samples."""
    inputs, labels = samples_of(model)
    x = np.concatenate([inputs[name] for name in names], axis=1)
    means = class_means(x, labels)
    weights = np.linalg.solve(np.cov((x - means[labels]).T), means.T)
    test, labels = samples_of(model, part=1)
    scores = np.concatenate([test[name] for name in names], axis=1) @ weights - 0.5 * (means.T * weights).sum(0)
    return float((scores.argmax(1) == labels).mean())


def test_a_fitted_discriminant_reaches_the_bayes_accuracies() -> None:
    model = design(3, [0.5, 2], 0.5, seed=3)
    limits = bayes_accuracies(model)
    assert [*limits] == ["joint", "m1", "m2", "m3"] and model.difficulty.tolist() == [0.5, 2, 0.5]
    for name, limit in limits.items():
        accuracy = discriminant_accuracy(model, [*model.names] if name == "joint" else [name])
        assert abs(accuracy - limit) < 0.015, name  # standard errors of 0.0035, and a loss by estimation
    assert limits["joint"] > max(limits[name] for name in model.names) + 0.05


def test_two_classes_have_a_closed_form() -> None:
    """Φ(Δ/2), Δ² = Σ (difference of the means)² / variance; what is not observed does not count."""
    means, variances = np.array([[0.0, 1.0, 5.0], [1.5, 0.2, 9.0]]), np.array([2.0, 0.5, math.inf])
    distance = math.sqrt(1.5**2 / 2 + 0.8**2 / 0.5)
    expected = 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))
    assert bayes_accuracy(means, variances) == pytest.approx(expected, abs=4 * 0.0016)


def test_accuracy_falls_with_difficulty() -> None:
    limits = [bayes_accuracies(design(2, [difficulty], 0.5, seed=0)) for difficulty in (0, 1, 2, 50)]
    for head in ("joint", "m1", "m2"):
        values = [limit[head] for limit in limits]
        assert values == sorted(values, reverse=True)
    assert limits[-1]["joint"] < 0.15  # near chance, a tenth


@pytest.mark.parametrize("redundancy", [0, 0.5, 1])
def test_redundancy_is_the_number_of_common_directions(redundancy: float) -> None:
    """Canonical correlations within classes: 1/√((1 + τ₁²)(1 + τ₂²)) for each common direction, 0 for all others."""
    model = design(2, [0.5, 1], redundancy, seed=1)
    inputs, labels = samples_of(model)
    whitened = []
    for name in model.names:
        within = inputs[name] - class_means(inputs[name], labels)[labels]
        whitened.append(within @ np.linalg.inv(np.linalg.cholesky(np.cov(within.T))).T)
    correlations = np.linalg.svd(whitened[0].T @ whitened[1] / SAMPLES, compute_uv=False)
    common = round(redundancy * INFORMATIVE)
    noise = 2 * math.sqrt(32 / SAMPLES)  # the largest singular value of 32×32 independent correlations
    np.testing.assert_allclose(correlations[:common], 1 / math.sqrt(1.25 * 2), atol=noise)
    assert np.all(correlations[common:] < 1.2 * noise)


def test_full_redundancy_only_averages_noise() -> None:
    model = design(4, [1, 2], 1, seed=0)
    alone = design(2, [math.sqrt(1 / (1 + 1 / 4 + 1 + 1 / 4))], 1, seed=0)
    np.testing.assert_allclose(model.variances(range(4)), alone.variances([0]))
    np.testing.assert_array_equal(model.means, alone.means)
    exact = bayes_accuracies(design(3, [0, 1], 1, seed=0))  # m1 observes the latent vector itself
    assert exact["joint"] == exact["m1"] > exact["m2"]
    assert bayes_accuracies(model)["joint"] < exact["joint"]


def test_without_redundancy_distances_add_up() -> None:
    model = design(3, [1, 2], 0, seed=0)

    def squared_distances(modalities: list[int]) -> np.ndarray:
        whitened = model.means / np.sqrt(model.variances(modalities))
        return ((whitened[:, None] - whitened) ** 2).sum(-1)

    np.testing.assert_allclose(squared_distances([0, 1, 2]), sum(squared_distances([k]) for k in range(3)))


def test_the_first_modalities_of_a_larger_set_are_the_smaller_set(tmp_path: Path) -> None:
    reports = [GaussianModalities.prepare(out=tmp_path / str(count), modalities=count, samples=30) for count in (2, 3)]
    assert all(report.complete and report.totals == {"train": 30, "test": 30} for report in reports)
    small, large = (GaussianModalities.open(tmp_path / name, "test", training=False) for name in ("2", "3"))
    assert [*small.sources] == ["m1", "m2"] and [*large.sources] == ["m1", "m2", "m3"]
    assert small.labels == large.labels and np.bincount(small.labels).tolist() == [3] * 10
    for index in range(30):
        for name, x in small[index].inputs.items():
            np.testing.assert_array_equal(x, large[index].inputs[name])
    records = [json.loads((tmp_path / name / "prepared.json").read_text()) for name in ("2", "3")]
    assert records[0]["bayes_accuracy"]["m2"] == records[1]["bayes_accuracy"]["m2"]
    assert all(record["synthetic"] for record in records)


def test_a_prepared_folder_is_kept_and_other_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["modalities", "--out", str(tmp_path / "set"), "--samples", "20"]
    assert prepare.main(words) == 0 and "Bayes accuracy" in capsys.readouterr().out
    assert prepare.main(words) == 0
    printed = capsys.readouterr().out
    assert "prepared before  40" in printed and printed.endswith(f"{GaussianModalities.banner}\n")
    with pytest.raises(InputError, match="redundancy"):
        prepare.main([*words, "--redundancy", "1"])
    assert prepare.main(["modalities", "--out", str(tmp_path / "set"), "--check"]) == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--modalities", "1"], "--modalities must be from 2 to 8, not 1"),
        (["--modalities", "9"], "--modalities must be from 2 to 8, not 9"),
        (["--difficulty", "1", "2", "3"], "--difficulty has 3 values for 2 modalities"),
        (["--difficulty", "-1"], "--difficulty must be at least 0"),
        (["--difficulty", "nan"], "--difficulty must be at least 0"),
        (["--redundancy", "1.1"], "--redundancy must be from 0 to 1"),
        (["--samples", "9"], "--samples must be at least 10"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--download"], "without --download"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(tmp_path: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        prepare.main(["modalities", "--out", str(tmp_path / "set"), *words])
    assert not [*tmp_path.iterdir()]


def test_the_banner_calls_the_data_synthetic() -> None:
    assert "synthetic" in GaussianModalities.banner.lower() and "method" in GaussianModalities.banner
