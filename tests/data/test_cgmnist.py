import gzip
import hashlib
import json
import os
import shutil
import struct
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mmpareto.data.cgmnist import CGMNIST
from mmpareto.data.generated.colouring import PALETTE, coloured, gray_of, ink_colours
from mmpareto.data.preparation.archives import unpacked
from mmpareto.errors import InputError

Array = npt.NDArray[Any]
Digits = dict[str, tuple[Array, Array]]
PUBLISHED = "mnist_10color_jitter_var_0.030.npy"


def ink(count: int, generator: np.random.Generator) -> Array:
    """uint8 (count, 28, 28): soft-edged strokes, 2.5 pixels wide, through three random points."""
    points = generator.uniform(5, 22, (count, 3, 2))
    pixels = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij"), axis=-1).reshape(1, -1, 2)
    nearest = np.full((count, 28 * 28), np.inf)
    for begin, end in ((0, 1), (1, 2)):
        start, along = points[:, None, begin], points[:, None, end] - points[:, None, begin]
        share = ((pixels - start) * along).sum(2) / (along**2).sum(2)
        nearest = np.minimum(nearest, np.linalg.norm(pixels - start - share.clip(0, 1)[..., None] * along, axis=2))
    return (255 * (1.8 - nearest).clip(0, 1)).round().astype(np.uint8).reshape(count, 28, 28)


def digits(train: int = 60, test: int = 40, seed: int = 0) -> Digits:
    generator = np.random.default_rng(seed)
    return {
        part: (ink(count, generator), generator.permutation(np.arange(count) % 10).astype(np.uint8))
        for part, count in (("train", train), ("test", test))
    }


def write_mnist(folder: Path, parts: Digits, zipped: tuple[str, ...] = ()) -> Path:
    """Write MNIST's four files in the format of yann.lecun.com/exdb/mnist, gzipping those named in `zipped`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = parts[part]
        files = {
            f"{prefix}-images-idx3-ubyte": struct.pack(">IIII", 2051, *images.shape) + images.tobytes(),
            f"{prefix}-labels-idx1-ubyte": struct.pack(">II", 2049, len(labels)) + labels.tobytes(),
        }
        for name, content in files.items():
            if name in zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder


def write_published(folder: Path, parts: Digits, **changes: Any) -> Path:
    """Write the published file of coloured images, with colours found only there: a random colour per digit."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {}
    for part, (images, labels) in parts.items():
        colours = np.random.default_rng(7).integers(80, 256, (len(labels), 3))
        content[f"{part}_image"] = (images[..., None] / 255 * colours[:, None, None]).astype(np.uint8)
        content[f"{part}_label"] = labels
    np.save(folder / PUBLISHED, np.array(content | changes, dtype=object))
    return folder


def colours_of(images: Array, gray: Array) -> Array:
    """Ink-weighted mean colours in [0, 1], (N, 3), of (N, 3, 28, 28) images and (N, 1, 28, 28) ink."""
    return (images * (gray / 255)).sum((2, 3)) / gray.sum((2, 3)).clip(1)


def bayes_accuracy(samples: int = 100_000) -> float:
    """Accuracy of the most likely class, given a colour of the palette with normal jitter, clipped to [0, 1].

    A channel's likelihood is the normal density; at 0 and 1 it is the clipped probability mass.
    """
    generator = np.random.default_rng(0)
    means, sigma = PALETTE / 255, 0.03**0.5
    labels = generator.integers(0, 10, samples)
    colours = (means[labels] + sigma * generator.standard_normal((samples, 3))).clip(0, 1)[:, None]
    z = torch.from_numpy((colours - means) / sigma)
    density = -z.square() / 2 - float(np.log(sigma * np.sqrt(2 * np.pi)))
    likelihood = torch.where(
        torch.from_numpy(colours <= 0),
        torch.special.log_ndtr(z),
        torch.where(torch.from_numpy(colours >= 1), torch.special.log_ndtr(-z), density),
    ).sum(2)
    return float((likelihood.argmax(1).numpy() == labels).mean())


def linear_classifier(features: Array, labels: Array) -> torch.nn.Linear:
    """Fit a multinomial logistic regression."""
    x, y = torch.from_numpy(features).double(), torch.from_numpy(labels).long()
    model = torch.nn.Linear(3, 10).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(model(x), y)
        value.backward()
        return float(value.detach())

    optimizer.step(loss)
    return model


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Digits]:
    """A prepared folder of 6,000 training and 2,000 test samples from files in MNIST's format, and the digits."""
    folder = tmp_path_factory.mktemp("large")
    parts = digits(6000, 2000)
    write_mnist(folder / "raw", parts, zipped=("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"))
    CGMNIST.prepare(raw=folder / "raw", out=folder / "out")
    return folder / "out", parts


def arrays(out: Path, part: str) -> tuple[Array, Array]:
    return np.load(out / f"arrays/{part}_gray.npy"), np.load(out / f"arrays/{part}_colour.npy")


def test_the_prepared_folder_holds_the_digits_in_order(large: tuple[Path, Digits]) -> None:
    out, parts = large
    assert (out / "stat.csv").read_text() == "".join(f"{digit}\n" for digit in range(10))
    for part, (images, labels) in parts.items():
        gray, colour = arrays(out, part)
        assert gray.dtype == colour.dtype == np.uint8
        assert np.array_equal(gray[:, 0], images) and colour.shape == (len(images), 3, 28, 28)
        lines = (out / f"{part}.csv").read_text().splitlines()
        assert lines == [f"{part}_{index:05d},{label}" for index, label in enumerate(labels)]
    record = json.loads((out / "prepared.json").read_text())
    assert "made from MNIST with seed 0" in record["origin"]["colour"] and PUBLISHED in record["origin"]["colour"]
    assert record["origin"]["gray"] == "MNIST's images" and not record["synthetic"]


def test_the_colour_depends_on_the_digit_in_training_and_not_in_test(large: tuple[Path, Digits]) -> None:
    out, parts = large
    best = bayes_accuracy()
    assert best > 0.75
    features = {part: colours_of(*reversed(arrays(out, part))) for part in parts}
    model = linear_classifier(features["train"], parts["train"][1])
    accuracy = {
        part: float((model(torch.from_numpy(features[part])).argmax(1).numpy() == labels).mean())
        for part, (_, labels) in parts.items()
    }
    assert abs(accuracy["train"] - best) < 0.02
    assert abs(accuracy["test"] - 0.1) < 0.02


def test_a_digit_has_one_colour_on_black(large: tuple[Path, Digits]) -> None:
    out, _ = large
    gray, colour = (values[:500].astype(float) for values in arrays(out, "train"))
    assert not colour[np.repeat(gray == 0, 3, axis=1)].any()
    ink_of = colour.max((2, 3))[..., None, None]  # every picture has fully inked pixels
    assert (gray.max((1, 2, 3)) == 255).all()
    assert np.abs(colour - gray / 255 * ink_of).max() <= 0.5


def test_open_returns_labelled_uint8_samples(large: tuple[Path, Digits]) -> None:
    out, parts = large
    for part, (images, labels) in parts.items():
        dataset = CGMNIST.open(out, part, training=part == "train")
        assert len(dataset) == len(labels) and dataset.classes == [str(digit) for digit in range(10)]
        assert dataset.channels == {"gray": 1, "colour": 3}
        inputs, label, index, *_ = dataset[(3, 17)]
        assert (label, index) == (labels[17], 17)
        assert inputs["gray"].dtype == inputs["colour"].dtype == torch.uint8
        assert np.array_equal(inputs["gray"].numpy(), images[17][None])
        assert np.array_equal(inputs["colour"].numpy(), arrays(out, part)[1][17])
        mean, std = dataset.normalisation["gray"][:2]
        assert (*mean, *std) == (0.1307, 0.3081)
        mean, std = dataset.normalisation["colour"][:2]
        assert (*mean, *std) == (0.4914, 0.4822, 0.4465, 0.2023, 0.1994, 0.2010)


# --- the colours ---


def pcg64(seed: list[int]) -> Any:
    """Generate PCG XSL-RR 128/64 (O'Neill 2014, section 6.3.3) from the state that NumPy derives from the seed."""
    start = np.random.PCG64(seed).state["state"]
    state, increment = start["state"], start["inc"]
    while True:
        state = (state * 0x2360ED051FC65DA44385DF649FCCF645 + increment) % 2**128
        folded, turn = (state >> 64) ^ (state % 2**64), state >> 122
        yield ((folded >> turn) | (folded << (64 - turn))) % 2**64


def plain_colours(labels: list[int], part: str, seed: int) -> list[list[int]]:
    """Colours by the docstring of `ink_colours`, computed per sample in exact fractions."""
    stream = pcg64([seed, {"train": 0, "test": 1}[part]])
    colours = []
    for label in labels:
        words = [next(stream) for _ in range(13)]
        mean = PALETTE[label if part == "train" else words[12] % 10].tolist()
        colour = []
        for channel in range(3):
            uniforms = []
            for word in words[4 * channel : 4 * channel + 4]:
                for _ in range(4):
                    uniforms.append(Fraction(word % 65536, 65536))
                    word //= 65536
            # 16-bit numbers in [0, 1) have the mean ½ − 2⁻¹⁷.
            jitter = Fraction(15, 100) * (sum(uniforms) - 16 * (Fraction(1, 2) - Fraction(1, 2**17)))
            value = min(max(Fraction(mean[channel], 255) + jitter, Fraction(0)), Fraction(1))
            colour.append(int(value * 255 + Fraction(1, 2)))
        colours.append(colour)
    return colours


@pytest.mark.parametrize(
    ("part", "seed", "digest"),
    [
        ("train", 0, "d02ff82e5a673ee5b8f593b796cf3435d7043e697a5afeecc9a6fa3238c9bee3"),
        ("test", 0, "d7c7d92de6e93761c6d67dfbb00a917d3308af4119baab9af161a052732cc01c"),
        ("train", 20260101, "0f31682a4b6ff83fafa3d1273f32f6ad5c7000cd3f5ee4b56fb8e4e3073397e6"),
    ],
)
def test_colours_are_bit_identical_on_every_platform(part: Any, seed: int, digest: str) -> None:
    labels = [index * 7 % 10 for index in range(64)]
    plain = plain_colours(labels, part, seed)
    colours = ink_colours(np.array(labels), part, seed)
    assert colours.dtype == np.uint8
    assert colours.tolist() == plain
    assert hashlib.sha256(bytes(value for colour in plain for value in colour)).hexdigest() == digest


def test_pixels_are_products_rounded_to_the_nearest() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for colour in (0, 1, 2, 100, 127, 254, 255):
        images = coloured(gray, np.full((1, 3), colour, np.uint8))
        expected = [[int(Fraction(g * colour, 255) + Fraction(1, 2)) for g in row] for row in gray[0].tolist()]
        assert images.tolist() == [[expected] * 3]


def test_a_sample_s_colour_does_not_depend_on_the_others() -> None:
    labels = np.arange(5000) % 10
    images = np.random.default_rng(0).integers(0, 256, (5000, 4, 4), np.uint8)
    whole = ink_colours(labels, "train", 3)
    changed = labels.copy()
    changed[4000:] = 0
    assert np.array_equal(ink_colours(changed[:4500], "train", 3)[:4000], whole[:4000])
    assert np.array_equal(coloured(images[4090:4100], whole[4090:4100]), coloured(images, whole)[4090:4100])
    assert not np.array_equal(ink_colours(labels, "train", 4), whole)
    assert np.array_equal(ink_colours(labels, "test", 3), ink_colours(changed, "test", 3))


def test_the_jitter_is_normal_with_variance_0_03_per_channel_and_independent() -> None:
    # Green and blue of teal are 128: clipped to [0, 1] only beyond 2.9 standard deviations.
    levels = (ink_colours(np.full(60_000, 1), "train", 0)[:, 1:].astype(float) - 128) / 255
    sigma = 0.03**0.5
    assert np.abs(levels.mean(0)).max() < 5 * sigma / 60_000**0.5 + 0.001
    assert np.abs(levels.var(0) / 0.03 - 1).max() < 0.02
    assert abs(np.corrcoef(levels.T)[0, 1]) < 5 / 60_000**0.5
    for channel in levels.T:  # Kolmogorov-Smirnov distance at the borders between levels, without 0 and 1
        borders = np.arange(-110.5, 111) / 255
        share = np.searchsorted(np.sort(channel), borders) / len(channel)
        expected = torch.special.ndtr(torch.from_numpy(borders / sigma)).numpy()
        assert np.abs(share - expected).max() < 1.63 / 60_000**0.5 + 0.002  # 1% bound + error of the approximation


def test_mean_colours_are_uniform_in_the_test_set() -> None:
    colours = ink_colours(np.zeros(20_000, int), "test", 0)
    dark = (colours[:, 1:] < 100).all(1) & (colours[:, 0] > 60)  # mostly crimson and maroon
    assert 0.15 < dark.mean() < 0.25


def test_gray_digits_are_recovered_from_coloured_ones() -> None:
    gray = ink(200, np.random.default_rng(1))
    gray[0] = 0
    colours = np.maximum(ink_colours(np.arange(200) % 10, "train", 0), [[60, 0, 0]])
    recovered = gray_of(coloured(gray, colours)).astype(int)
    assert not recovered[0].any()
    bright = gray_of(np.array([[[[5, 3]], [[0, 9]], [[1, 9]]]], np.uint8))
    assert bright.tolist() == [[[142, 255]]]  # 255 · 5 / 9 is 141.7
    brightest = colours.max(1)[:, None, None]
    assert (np.abs(recovered - gray) <= 127.5 / brightest + 1).all()  # half a level of the coloured image


# --- the raw files ---


def test_plain_and_gzipped_files_give_the_same_arrays(tmp_path: Path) -> None:
    parts = digits()
    names = [f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    write_mnist(tmp_path / "plain", parts)
    write_mnist(tmp_path / "deep/MNIST/raw", parts, zipped=tuple(names))
    write_mnist(tmp_path / "dots", parts)
    for name in names:
        (tmp_path / "dots" / name).rename(tmp_path / "dots" / name.replace("-idx", ".idx"))
    for raw in ("plain", "deep", "dots"):
        CGMNIST.prepare(raw=tmp_path / raw, out=tmp_path / f"out-{raw}", seed=5)
    for path in sorted((tmp_path / "out-plain/arrays").iterdir()):
        for other in ("deep", "dots"):
            assert path.read_bytes() == (tmp_path / f"out-{other}/arrays" / path.name).read_bytes()


def test_a_plain_file_is_preferred_to_its_gzipped_copy(tmp_path: Path) -> None:
    write_mnist(tmp_path / "raw", digits())
    (tmp_path / "raw/train-images-idx3-ubyte.gz").write_bytes(b"a download that was stopped")
    CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    sums = json.loads((tmp_path / "out/prepared.json").read_text())["origin"]["sha256"]
    content = (tmp_path / "raw/train-images-idx3-ubyte").read_bytes()
    assert sums["train-images-idx3-ubyte"] == hashlib.sha256(content).hexdigest() and len(sums) == 4


def test_an_archive_of_the_files_is_prepared(tmp_path: Path) -> None:
    parts = digits()
    write_mnist(tmp_path / "files", parts)
    shutil.make_archive(str(tmp_path / "mnist"), "gztar", tmp_path, "files")
    with zipfile.ZipFile(tmp_path / "mnist.zip", "w") as archive:
        for path in (tmp_path / "files").iterdir():
            archive.write(path, f"MNIST/raw/{path.name}")
    for name in ("mnist.tar.gz", "mnist.zip"):
        out = tmp_path / f"out-{name}"
        report = CGMNIST.prepare(raw=unpacked(tmp_path / name, out / "raw"), out=out)
        assert report.prepared == 100
        assert np.array_equal(arrays(out, "train")[0][:, 0], parts["train"][0])


def test_the_published_file_with_mnist(tmp_path: Path) -> None:
    parts = digits()
    write_mnist(tmp_path / "raw/mnist", parts)
    write_published(tmp_path / "raw", parts)
    report = CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    published = np.load(tmp_path / "raw" / PUBLISHED, allow_pickle=True).item()
    for part, (images, _) in parts.items():
        gray, colour = arrays(tmp_path / "out", part)
        assert np.array_equal(gray[:, 0], images)
        assert np.array_equal(colour.transpose(0, 2, 3, 1), published[f"{part}_image"])
    assert f"colour: {PUBLISHED}" in report.text() and "gray: MNIST's images" in report.text()


def test_the_published_file_alone(tmp_path: Path) -> None:
    parts = digits()
    labels = parts["train"][1].tolist()  # a list of numbers is accepted, too
    write_published(tmp_path / "raw", parts, train_label=labels, test_gray=np.zeros((40, 28, 28), np.uint8))
    report = CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    for part, (images, _) in parts.items():
        gray, _ = arrays(tmp_path / "out", part)
        assert np.abs(gray[:, 0].astype(int) - images).max() <= 5
    assert (tmp_path / "out/train.csv").read_text().splitlines()[3] == f"train_00003,{labels[3]}"
    assert "gray: made of the coloured images" in report.text()
    assert "made of the coloured images" in json.loads((tmp_path / "out/prepared.json").read_text())["origin"]["gray"]


def test_images_that_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, digits(seed=1))
    write_published(tmp_path, digits(seed=2))
    with pytest.raises(
        InputError, match=r"0\.030\.npy: its train labels differ from those of the MNIST files.*https://"
    ):
        CGMNIST.prepare(raw=tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": Malicious()}, "requests posix.system"),
        ({"train_image": np.zeros((60, 28, 28, 3))}, "train: the images are not uint8"),
        ({"train_image": np.zeros((60, 28, 28), np.uint8)}, "train: the images are not uint8"),
        ({"test_image": np.zeros((0, 28, 28, 3), np.uint8)}, "test: the images are not uint8"),
        ({"test_image": [[1]]}, "test: the images are not uint8"),
        ({"test_label": np.full(40, 10)}, "test: the labels are not 40 digits"),
        ({"test_label": np.full(40, -1)}, "test: the labels are not 40 digits"),
        ({"test_label": np.zeros(39, int)}, "test: the labels are not 40 digits"),
        ({"test_label": np.zeros(40)}, "test: the labels are not 40 digits"),
        ({"test_label": ["0"] * 40}, "test: the labels are not 40 digits"),
        ({"test_label": [[0], [1, 2]] * 20}, "test: the labels are not 40 digits"),
        ({"test_label": None}, "test: the labels are not 40 digits"),
    ],
)
def test_an_invalid_coloured_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_published(tmp_path / "raw", digits(), **changes)
    with pytest.raises(InputError, match=rf"0\.030\.npy.*{message}"):
        CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_pickle_under_its_name_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / PUBLISHED, np.array({"train_image": 1}, dtype=object))
    with pytest.raises(InputError, match=r"has no 'train_label': it is not the published file \(https://"):
        CGMNIST.prepare(raw=tmp_path, out=tmp_path / "out")


def test_missing_files_are_named_with_the_download_pages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"nowhere does not exist.*{PUBLISHED}.*https://github.*https://"):
        CGMNIST.prepare(raw=tmp_path / "nowhere", out=tmp_path / "out")
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"raw holds neither.*https://.*https://"):
        CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    write_mnist(tmp_path / "raw", digits())
    (tmp_path / "raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"raw holds files of MNIST, but not t10k-labels-idx1-ubyte; .*https://"):
        CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")


def test_two_sets_of_files_are_refused(tmp_path: Path) -> None:
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(tmp_path / "raw" / name / "raw", digits())
    with pytest.raises(InputError, match=r"in .*/FashionMNIST/raw and in .*/MNIST/raw; keep one"):
        CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")


def test_files_of_other_shapes_or_labels_are_refused(tmp_path: Path) -> None:
    parts = digits()
    for change, message in (
        ({"train": (parts["train"][0][:, :20], parts["train"][1])}, "train: the images are not uint8 .N, 28, 28."),
        ({"test": (parts["test"][0], parts["test"][1] + 1)}, "test: the labels are not 40 digits"),
        ({"test": (parts["test"][0][1:], parts["test"][1])}, "test: the labels are not 39 digits"),
    ):
        write_mnist(tmp_path / "raw", parts | change)
        with pytest.raises(InputError, match=rf"raw, {message}"):
            CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    with pytest.raises(InputError, match="--seed must be at least 0"):
        CGMNIST.prepare(raw=tmp_path / "raw", out=tmp_path / "out", seed=-1)


# --- the prepared folder ---


def test_a_second_call_changes_nothing_and_other_inputs_are_refused(tmp_path: Path) -> None:
    raw, out = write_mnist(tmp_path / "raw", digits()), tmp_path / "out"
    first = CGMNIST.prepare(raw=raw, out=out)
    assert (first.prepared, first.already, first.complete) == (100, 0, True)
    dates = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = CGMNIST.prepare(raw=raw, out=out)
    assert (second.prepared, second.already) == (0, 100)
    assert (
        second.counts
        == first.counts
        == {
            "train": {str(digit): 6 for digit in range(10)},
            "test": {str(digit): 4 for digit in range(10)},
        }
    )
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == dates
    with pytest.raises(InputError, match="out was prepared with "):
        CGMNIST.prepare(raw=raw, out=out, seed=1)
    with pytest.raises(InputError, match="out was prepared with "):
        CGMNIST.prepare(raw=write_mnist(tmp_path / "other", digits(seed=1)), out=out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == dates


def test_an_interrupted_preparation_is_completed(tmp_path: Path) -> None:
    raw, out = write_mnist(tmp_path / "raw", digits()), tmp_path / "out"
    CGMNIST.prepare(raw=raw, out=out)
    expected = {path.name: path.read_bytes() for path in (out / "arrays").iterdir()}
    (out / "preparing.json").write_text((out / "prepared.json").read_text())
    (out / "prepared.json").unlink()
    (out / "arrays/test_gray.npy").unlink()
    (out / "arrays/.test_gray.npy.abc.npy").write_bytes(b"half")
    assert CGMNIST.prepare(raw=raw, out=out).prepared == 100
    assert {path.name: path.read_bytes() for path in (out / "arrays").iterdir()} == expected
    assert not (out / "preparing.json").exists()


def test_a_folder_of_other_data_is_left_alone(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path / "raw", digits())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/stat.csv").write_text("happy\n")
    with pytest.raises(InputError, match="out contains files that other software prepared"):
        CGMNIST.prepare(raw=raw, out=tmp_path / "out")
    (tmp_path / "out/prepared.json").write_text("[]")
    with pytest.raises(InputError, match=r"prepared\.json is damaged"):
        CGMNIST.prepare(raw=raw, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["prepared.json", "stat.csv"]


def test_the_split_of_mnist_is_recognised_by_its_class_counts(tmp_path: Path) -> None:
    assert (
        "other numbers of digits"
        in CGMNIST.prepare(raw=write_mnist(tmp_path / "raw", digits()), out=tmp_path / "small").text()
    )
    # Number of images per digit in the two parts of MNIST.
    counts = {
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    }
    assert [sum(values) for values in counts.values()] == [60_000, 10_000]
    whole = {
        part: (np.zeros((sum(values), 28, 28), np.uint8), np.repeat(np.arange(10, dtype=np.uint8), values))
        for part, values in counts.items()
    }
    report = CGMNIST.prepare(raw=write_mnist(tmp_path / "whole", whole), out=tmp_path / "out")
    assert report.split.official and "split            MNIST's own" in report.text()


def test_arrays_that_do_not_fit_the_lists_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    CGMNIST.prepare(raw=write_mnist(tmp_path / "raw", digits()), out=out)
    np.save(out / "arrays/test_gray.npy", np.zeros((39, 1, 28, 28), np.uint8))
    with pytest.raises(InputError, match=r"test_gray\.npy holds uint8 \(39, 1, 28, 28\) for 40 samples"):
        CGMNIST.open(out, "test", training=False)
    (out / "arrays/test_gray.npy").unlink()
    with pytest.raises(InputError, match=r"test_gray\.npy is not a readable array"):
        CGMNIST.open(out, "test", training=False)
