"""MultiMNIST from small files of MNIST's format, compared with literal overlays and another generator."""

import itertools
from pathlib import Path

import numpy as np
import prepare
import pytest
import torch
from mmpareto.data.multimnist import MultiMNIST
from mmpareto.errors import InputError
from test_cgmnist import digits, pcg64, write_mnist

CORNERS = {"left": (0, 0), "right": (0, 14)} | {
    name: (14 * (place // 2), 14 * (place % 2))
    for place, name in enumerate(("top_left", "top_right", "bottom_left", "bottom_right"))
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("raw"), digits())


@pytest.fixture(scope="module")
def two(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "multimnist"
    MultiMNIST.prepare(raw=raw, out=out)
    return out


@pytest.mark.parametrize(
    ("count", "tasks", "shape"),
    [
        (2, ["left", "right"], (28, 42)),
        (3, ["top_left", "top_right", "bottom_left"], (42, 42)),
        (4, ["top_left", "top_right", "bottom_left", "bottom_right"], (42, 42)),
    ],
)
def test_an_image_is_the_brighter_of_its_digits_and_their_classes_are_its_labels(
    count: int, tasks: list[str], shape: tuple[int, int], raw: Path, tmp_path: Path
) -> None:
    report = MultiMNIST.prepare(raw=raw, out=tmp_path / "out", digits=count, noise=0, seed=3)
    assert report.found == 100 and report.totals == {"train": 60, "test": 40}
    for number, (part, (images, labels)) in enumerate(digits().items()):
        orders = [list(range(len(images)))]  # of the first place; the others are sorted by draws of their own
        for place in range(1, count):
            draws = list(itertools.islice(pcg64([3, number, place]), len(images)))
            orders.append(sorted(range(len(images)), key=draws.__getitem__))
        dataset = MultiMNIST.open(tmp_path / "out", part, training=part == "train")
        assert dataset.tasks == tasks and dataset.channels == {"image": 1} and dataset.classes == list("0123456789")
        for index in range(len(images)):
            canvas = np.zeros(shape, np.uint8)
            for name, order in zip(tasks, orders, strict=True):
                (top, left), digit = CORNERS[name], images[order[index]]
                for row, column in itertools.product(range(28), range(28)):
                    canvas[top + row, left + column] = max(canvas[top + row, left + column], digit[row, column])
            sample = dataset[1, index]
            assert np.array_equal(sample.inputs["image"], canvas[None])
            assert sample.label.dtype == torch.int32
            assert sample.label.tolist() == [labels[order[index]] for order in orders]
            if index > 4:  # the literal loop is slow
                break
        for order in orders:
            assert sorted(order) == list(range(len(images)))


def test_noise_is_on_the_right_half_only_and_the_same_on_every_machine(raw: Path, two: Path, tmp_path: Path) -> None:
    MultiMNIST.prepare(raw=raw, out=tmp_path / "clean", noise=0)
    for number, part in enumerate(("train", "test")):
        noisy, clean = (np.load(folder / f"arrays/{part}_image.npy") for folder in (two, tmp_path / "clean"))
        assert np.array_equal(noisy[..., :21], clean[..., :21])
        draws = [
            word >> shift & 0xFFFF
            for word in itertools.islice(pcg64([0, number, 10]), 400)
            for shift in (0, 16, 32, 48)
        ]
        half, before = noisy[..., 21:].ravel()[:1600], clean[..., 21:].ravel()[:1600]
        expected = [
            255 if draw < 2**14 else 0 if draw < 2**15 else pixel for draw, pixel in zip(draws, before, strict=True)
        ]
        assert half.tolist() == expected
        assert (noisy[..., 21:] == 255).mean() == pytest.approx(0.25, abs=0.05)


def test_a_finished_folder_is_kept_and_other_arguments_are_refused(raw: Path, two: Path) -> None:
    assert MultiMNIST.prepare(raw=raw, out=two).already == 100
    with pytest.raises(InputError, match=r"was prepared with noise 0.5, not 0.1"):
        MultiMNIST.prepare(raw=raw, out=two, noise=0.1)


def test_fewer_samples_are_the_first_ones_and_the_command_prepares_them(raw: Path, two: Path, tmp_path: Path) -> None:
    words = ["multimnist", "--raw", str(raw), "--out", str(tmp_path / "few"), "--samples", "20", "40"]
    assert prepare.main(words) == 0
    for part, count in (("train", 20), ("test", 40)):
        few, all_of_them = (np.load(folder / f"arrays/{part}_image.npy") for folder in (tmp_path / "few", two))
        assert np.array_equal(few, all_of_them[:count])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1.5}, "--noise from 0 to 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"digits": 5}, "--digits is 5; it must be one of 2, 3, 4"),
        ({"samples": (61, 1)}, "--samples asks for 61 images for train; MNIST has 60"),
    ],
)
def test_arguments_out_of_range(options: dict[str, object], message: str, raw: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        MultiMNIST.prepare(raw=raw, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_line_without_a_class_per_task_and_an_unknown_task_are_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no task 'middle': the data set has the tasks left, right"):
        MultiMNIST.open(two, "test", training=False, tasks=["middle"])
    right = MultiMNIST.open(two, "test", training=False, tasks=["right"])
    both = MultiMNIST.open(two, "test", training=False)
    assert [label["right"] for label in both.labels] == [label["right"] for label in right.labels]
    assert right.tasks == ["right"] and right[0].label.shape == (1,)
    text = (two / "test.csv").read_text()
    try:
        (two / "test.csv").write_text(text.replace("test_00001,", "test_00001,x", 1))
        with pytest.raises(
            InputError, match=r"test_00001,x.*not a sample and a class for each of the tasks left, right"
        ):
            MultiMNIST.open(two, "test", training=False)
    finally:
        (two / "test.csv").write_text(text)
