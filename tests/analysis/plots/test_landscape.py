"""Filter-normalised directions, losses along them compared with closed forms, and their plot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import landscape
from mmpareto.analysis.plots.landscape import direction, landscape_plot, moved
from mmpareto.errors import InputError
from small_subject import FEATURE, SIZES, curved_network, inputs_of, linear_network, network_of, subject_of
from torch import nn

pytest_plugins = ["plot_fixtures"]


def filters(tensor: torch.Tensor) -> torch.Tensor:
    """The norms of the slices along the first axis."""
    return torch.stack([part.norm() for part in tensor])


def convolutions() -> nn.Sequential:
    torch.manual_seed(3)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad():
        made[0].weight[2] = 0  # a dead filter
        made[0].weight[1] *= 100
    return made


def test_filters_of_a_direction_have_the_norms_of_the_network_and_vectors_are_zero() -> None:
    network = convolutions()
    result = direction(network, 0, seed=0)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.testing.assert_close(filters(result[name]), filters(parameter.detach()), rtol=1e-6, atol=0)
        else:
            assert not result[name].any()
    assert result["0.weight"][1].std() > 10 * result["0.weight"][0].std()


def test_directions_depend_only_on_seed_number_and_name() -> None:
    network = convolutions()
    first = direction(network, 0, seed=0)
    assert all(torch.equal(first[name], again) for name, again in direction(network, 0, seed=0).items())
    for other in (direction(network, 1, seed=0), direction(network, 0, seed=1)):
        cosine = nn.functional.cosine_similarity(first["4.weight"].flatten(), other["4.weight"].flatten(), dim=0)
        assert abs(cosine) < 0.5
    # With other weights or more layers, the draws are the same except for the norms of the filters.
    longer = nn.ModuleDict({"before": nn.Linear(5, 2), "0": network[0]})
    with torch.no_grad():
        network[0].weight.mul_(7)
    torch.testing.assert_close(direction(longer, 0, seed=0)["0.weight"], 7 * first["0.weight"])


@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_restored_bit_by_bit(fails: bool) -> None:
    network = convolutions()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, second = direction(network, 0, seed=0), direction(network, 1, seed=0)
    try:
        with moved(network, [(0.1, first), (-0.7, second)]):
            inside = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for name, value in inside.items():
        torch.testing.assert_close(value, before[name] + 0.1 * first[name] - 0.7 * second[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_measurement_changes_neither_weights_nor_statistics() -> None:
    subject = subject_of(curved_network(batch_norm=True))
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    landscape.measure(subject, samples=9, points=5, plane=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())


def test_losses_of_a_linear_regression_match_the_closed_form() -> None:
    """Batches have unequal sizes, so averaging their means would weight samples unequally."""
    subject = subject_of(linear_network(n_classes=1), scores=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape, "BATCH_SIZE", 4)
        result = landscape.measure(subject, samples=11, points=5, plane=3, seed=2)
    inputs, labels = inputs_of(subject, [int(index) for batch in subject.sample(11, 4) for index in batch.indices])
    scores = labels.numpy()
    weights = {name: p.detach().numpy() for name, p in subject.network.named_parameters()}
    directions = [{k: v.numpy() for k, v in direction(subject.network, number, seed=2).items()} for number in (0, 1)]

    def by_hand(a: float, b: float) -> tuple[float, float]:
        moved_weights = {name: w + a * directions[0][name] + b * directions[1][name] for name, w in weights.items()}
        features = [inputs[name].numpy() @ moved_weights[f"encoders.{name}.weight"].T for name in SIZES]
        output = np.hstack(features) @ moved_weights["fusion.fc_out.weight"][0] + moved_weights["fusion.fc_out.bias"][0]
        return float(np.abs(output - scores).mean()), float(((output > 0) == (scores > 0)).mean())

    assert result["distances"] == [-1, -0.5, 0, 0.5, 1] and result["plane_distances"] == [-1, 0, 1]
    for index, a in enumerate(result["distances"]):
        loss, accuracy = by_hand(a, 0)
        assert result["line"]["loss"][index] == pytest.approx(loss, rel=1e-6)  # outputs are kept in float32
        assert result["line"]["acc"][index] == pytest.approx(accuracy)
    for row, b in enumerate(result["plane_distances"]):
        for column, a in enumerate(result["plane_distances"]):
            assert result["plane"]["loss"][row][column] == pytest.approx(by_hand(a, b)[0], rel=1e-6)
            assert result["plane"]["acc"][row][column] == pytest.approx(by_hand(a, b)[1])


def relu_network() -> nn.Module:
    return network_of(
        {name: nn.Sequential(nn.Linear(size, 6), nn.ReLU(), nn.Linear(6, FEATURE)) for name, size in SIZES.items()}
    )


def test_scaling_a_layer_up_and_the_next_one_down_changes_nothing() -> None:
    """The purpose of filter normalisation (Li et al., section 3); without it, the losses would change."""
    plain, scaled = (subject_of(relu_network()) for _ in range(2))
    with torch.no_grad():
        for encoder in scaled.network.encoders.values():
            encoder[0].weight.mul_(50)
            encoder[0].bias.mul_(50)
            encoder[2].weight.div_(50)
    expected, result = (landscape.measure(subject, samples=20, points=7, plane=3) for subject in (plain, scaled))
    assert max(expected["line"]["loss"]) > 1.05 * min(expected["line"]["loss"])
    np.testing.assert_allclose(result["line"]["loss"], expected["line"]["loss"], rtol=1e-9)
    np.testing.assert_allclose(result["plane"]["loss"], expected["plane"]["loss"], rtol=1e-9)
    assert result["line"]["acc"] == expected["line"]["acc"]


@pytest.mark.parametrize("make", [curved_network, linear_network])
def test_the_centre_is_the_checkpoint_and_line_and_plane_agree(make: Callable[[], nn.Module]) -> None:
    subject = subject_of(make())  # type: ignore[arg-type]
    result = landscape.measure(subject, samples=30, points=5, plane=5)
    inputs, labels = inputs_of(subject, list(range(30)))
    with torch.no_grad():
        truth = nn.functional.cross_entropy(subject.network(inputs).joint, labels).item()
    assert result["line"]["loss"][2] == pytest.approx(truth, rel=1e-6)  # predictions are kept in float32
    assert result["plane"]["loss"][2] == result["line"]["loss"]


def test_the_plane_is_optional_and_measurement_is_repeatable() -> None:
    subject = subject_of(curved_network())
    result = landscape.measure(subject, samples=9, points=3)
    assert result["plane"] is None and result["plane_distances"] is None and len(result["line"]["loss"]) == 3
    assert result == landscape.measure(subject, samples=9, points=3)
    assert result["line"] != landscape.measure(subject, samples=9, points=3, seed=1)["line"]


def test_samples_are_drawn_from_the_whole_training_set_without_replacement() -> None:
    subject = subject_of(curved_network())
    indices = [int(index) for batch in subject.sample(10, 4) for index in batch.indices]
    assert len(set(indices)) == 10 and max(indices) >= 15
    assert indices != [int(index) for batch in subject.sample(10, 4, seed=1) for index in batch.indices]


def test_more_samples_than_the_training_set_has_are_refused() -> None:
    with pytest.raises(InputError, match="--samples is 99"):
        landscape.measure(subject_of(curved_network()), samples=99, points=3)


def draw(*runs: Path, more: tuple[str, ...] = ()) -> None:
    flags = ("--samples", "6", "--points", "5", "--gpu_ids", "cpu")
    assert figures.main(["landscape", "--run", *map(str, runs), *flags, *more]) == 0


def measured(run: Path) -> dict[str, Any]:
    return json.loads((run / "landscape.json").read_text())


def test_each_label_has_one_line_with_the_mean_over_seeds(runs: list[Path], unsaved: list[Figure]) -> None:
    draw(*runs[:3])
    contents = [measured(run) for run in runs[:3]]
    assert contents[0]["distances"] == [-1, -0.5, 0, 0.5, 1] and contents[0]["plane"] is None
    assert contents[0]["directions_seed"] == 0 and "running statistics" in contents[0]["batch_norm"]
    loss, accuracy = unsaved[0].axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in loss.lines}
    np.testing.assert_allclose(lines["Uniform"], np.mean([one["line"]["loss"] for one in contents[:2]], axis=0))
    np.testing.assert_allclose(lines["Joint loss"], contents[2]["line"]["loss"])
    shares = {line.get_label(): np.asarray(line.get_ydata()) for line in accuracy.lines}
    np.testing.assert_allclose(shares["Joint loss"], 100 * np.array(contents[2]["line"]["acc"]))
    notes = " ".join(text.get_text() for text in unsaved[0].texts)
    assert "6 training samples" in notes and "seed 0, the same draws" in notes and "BatchNorm: running" in notes
    draw(runs[1], more=("--directions_seed", "4"))
    assert measured(runs[1])["directions_seed"] == 4
    with pytest.raises(InputError, match="--directions_seed 0 and 4"):
        landscape_plot([FinishedRun(run) for run in runs[:2]])


def test_planes_share_a_colour_scale_and_a_line_is_not_measured_again(
    runs: list[Path], unsaved: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(runs[0], runs[2], more=("--plane", "3"))
    content = measured(runs[2])
    assert np.shape(content["plane"]["loss"]) == np.shape(content["plane"]["acc"]) == (3, 3)
    assert content["plane"]["loss"][1][1] == content["line"]["loss"][2]
    (figure,) = unsaved
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert "Uniform" in titles and "Joint loss" in titles
    assert "Planes: of the first seed" in " ".join(text.get_text() for text in figure.texts)
    assert "joint loss" in [axes.get_ylabel() for axes in figure.axes]  # the colour bar
    scales = {(c.norm.vmin, c.norm.vmax) for axes in figure.axes for c in axes.collections if c.get_array() is not None}
    assert len(scales) == 1
    monkeypatch.setattr(landscape, "measure", None)
    draw(runs[2])
    assert measured(runs[2]) == content
    with pytest.raises(TypeError):  # `measure` is called, but is None
        draw(runs[2], more=("--plane", "5"))


@pytest.mark.parametrize("flag", ["--points", "--plane"])
def test_an_even_number_of_points_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        draw(Path("x"), more=(flag, "4"))
    assert caught.value.code == 2 and flag in capsys.readouterr().err
