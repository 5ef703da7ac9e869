import math
import random
from typing import get_args

import numpy as np
import pytest
import torch
from mmpareto.data.loading.options import FrameChoice
from mmpareto.data.loading.sampling import fixed_frames, random_crop, random_frames, sample_generator
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop


def released_train_indices(available: int, wanted: int, draw: random.Random) -> list[int]:
    segment = int(available / wanted)
    return [draw.randint(i * segment + 1, i * segment + segment) for i in range(wanted)]


@pytest.mark.parametrize("choice", get_args(FrameChoice))
@pytest.mark.parametrize("wanted", [1, 2, 3, 5])
def test_frame_numbers_are_sorted_and_valid_for_every_length(wanted: int, choice: FrameChoice) -> None:
    for available in range(1, 40):
        for numbers in (
            fixed_frames(available, wanted, choice),
            random_frames(available, wanted, choice, sample_generator(0, 0, available)),
        ):
            assert len(numbers) == wanted
            assert numbers == sorted(numbers)
            assert numbers[0] >= 1 and numbers[-1] <= available
            if choice != "starts" or available >= wanted:
                assert len(set(numbers)) == min(available, wanted)


@pytest.mark.parametrize(("choice", "shortest"), [("spread", 2), ("released", 1)])
@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_frames_match_the_released_loader(wanted: int, choice: FrameChoice, shortest: int) -> None:
    """In testing its later form; the two differ only where the first one reads frame 0."""
    draw = random.Random(0)
    for available in range(shortest * wanted, 14):
        segment = int(available / wanted)
        theirs_in_test = [i * segment + max(int(segment / 2), 1) for i in range(wanted)]
        assert fixed_frames(available, wanted, choice) == theirs_in_test
        assert (theirs_in_test == [i * segment + int(segment / 2) for i in range(wanted)]) == (segment > 1)
        ours = {tuple(random_frames(available, wanted, choice, sample_generator(0, 0, i))) for i in range(400)}
        theirs = {tuple(released_train_indices(available, wanted, draw)) for _ in range(400)}
        if segment**wanted <= 40:  # few enough outcomes for 400 draws to cover them all
            assert ours == theirs
        assert all(i * segment < number <= (i + 1) * segment for row in ours for i, number in enumerate(row))


def test_short_clips() -> None:
    assert [fixed_frames(available, 2, "spread") for available in (1, 2, 3)] == [[1, 1], [1, 2], [1, 3]]
    assert [fixed_frames(available, 3, "spread") for available in (1, 2, 3, 4, 5)] == [
        [1, 1, 1],
        [1, 2, 2],
        [1, 2, 3],
        [1, 3, 4],
        [1, 3, 5],
    ]
    drawn = {tuple(random_frames(3, 2, "spread", sample_generator(0, 0, i))) for i in range(100)}
    assert drawn == {(1, 2), (1, 3), (2, 3)}
    assert random_frames(1, 2, "spread", sample_generator(0, 0, 0)) == [1, 1]
    assert random_frames(2, 2, "spread", sample_generator(0, 0, 0)) == [1, 2]
    assert [fixed_frames(available, 3, "released") for available in (1, 2)] == [[1, 1, 1], [1, 2, 2]]


def test_the_first_frames_are_read_in_every_epoch() -> None:
    """As in DGL's loader, which sorts the numbers that it draws and then reads the first of the list."""
    listed = [*range(1, 11)]
    for wanted in (1, 3):
        assert fixed_frames(10, wanted, "first") == listed[:wanted]
        assert {tuple(random_frames(10, wanted, "first", sample_generator(0, e, 0))) for e in range(9)} == {
            tuple(listed[:wanted])
        }


@pytest.mark.parametrize(("available", "numbers"), [(10, [1, 4, 7]), (9, [1, 4, 7]), (5, [1, 2, 3]), (2, [1, 1, 1])])
def test_segments_start_where_ogm_ge_reads_them_on_kinetics_sounds(available: int, numbers: list[int]) -> None:
    assert fixed_frames(available, 3, "starts") == numbers
    assert random_frames(available, 3, "starts", sample_generator(0, 0, 0)) == numbers


def test_the_random_stream_of_earlier_runs_is_unchanged() -> None:
    """Draws of an earlier version: what a resumed run still draws from it."""
    generator = sample_generator(3, 5, 7)
    numbers = [random_frames(available, 2, "spread", generator) for available in (3, 8, 1, 2)]
    assert numbers == [[2, 3], [3, 8], [1, 1], [1, 2]] and generator.random() == 0.20761417419459705


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (360, 480, (0.08, 1.0), (3 / 4, 4 / 3)),
        (224, 224, (0.4, 1.0), (3 / 4, 4 / 3)),
        (30, 200, (0.08, 1.0), (3 / 4, 4 / 3)),  # mostly the central fallback
        (200, 30, (0.5, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_crops_have_the_distribution_of_torchvision(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    count = 1500
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, list(scale), list(ratio)) for _ in range(count)])
    generator = np.random.default_rng(1)
    ours = np.array([random_crop(height, width, generator, scale, ratio) for _ in range(count)])
    assert (ours >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    for measure in (
        lambda box: box[:, 2] * box[:, 3],  # area
        lambda box: box[:, 3] / box[:, 2],  # ratio
        lambda box: box[:, 0] + box[:, 2] / 2,  # centre
        lambda box: box[:, 1] + box[:, 3] / 2,
    ):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.01


@pytest.mark.parametrize(("height", "width"), [(1, 100), (100, 1), (1, 1), (2, 3)])
def test_crops_of_extreme_pictures_stay_inside(height: int, width: int) -> None:
    for index in range(50):
        top, left, tall, wide = random_crop(height, width, sample_generator(0, 0, index))
        assert top >= 0 and 1 <= tall <= height - top and left >= 0 and 1 <= wide <= width - left


def test_fallback_crop_is_the_largest_central_one() -> None:
    crop = random_crop(30, 300, np.random.default_rng(0), scale=(1.0, 1.0))  # a whole-area crop can never fit
    assert crop == (0, (300 - 40) // 2, 30, 40)
    assert math.isclose(crop.width / crop.height, 4 / 3)


def test_generators_differ_by_every_argument() -> None:
    keys = [(s, e, i) for s in range(3) for e in range(3) for i in range(3)]
    first = {sample_generator(*key).random() for key in keys}
    assert len(first) == len(keys)
    assert sample_generator(1, 2, 3).random() == sample_generator(1, 2, 3).random()
