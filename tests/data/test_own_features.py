"""Own features: arrays of any modalities with labels of three tasks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpareto.analysis.preprocessing import Preprocessing
from mmpareto.data.feature_arrays import modality_of, read_labels
from mmpareto.data.features import FeatureArrays
from mmpareto.data.loading.samples import standardised
from mmpareto.errors import InputError
from sklearn.preprocessing import StandardScaler

SAMPLES = 40
random = np.random.default_rng(0)
VITALS = random.normal(50, 9, (SAMPLES, 3)) * [1, 100, 0] + [0, 0, 7]  # the last one is constant
STEPS = random.integers(1, 6, SAMPLES)
ECG = random.normal(-3, 2, (SAMPLES, 5, 2)).astype(np.float32)
PHOTO = random.integers(0, 200, (SAMPLES, 6, 4, 3), dtype=np.uint8)
CLASSES = np.array(["sick", "well"])[np.arange(SAMPLES) % 2]


def arrays(**changes):
    """Content of a file; a value of None leaves an array out."""
    content = {"vitals": VITALS, "ecg": ECG, "ecg_lengths": STEPS, "photo": PHOTO, "labels": CLASSES} | changes
    return {name: values for name, values in content.items() if values is not None}


def prepare(tmp_path: Path, options=None, **changes):
    np.savez(tmp_path / "mine.npz", **arrays(**changes))
    return FeatureArrays.prepare(raw=tmp_path / "mine.npz", out=tmp_path / "out", **options or {})


def opened(tmp_path: Path, part: str = "train"):
    return FeatureArrays.open(tmp_path / "out", part, training=False)


def rows_of(samples) -> np.ndarray:
    """Rows of the raw file: without names of their own, samples are called by them."""
    return np.array([int(name) for name in samples.names])


def test_features_are_standardised_by_the_training_set(tmp_path: Path) -> None:
    report = prepare(tmp_path)
    assert report.counts == {"train": {"sick": 16, "well": 16}, "test": {"sick": 4, "well": 4}}
    train = rows_of(opened(tmp_path))
    for part in ("train", "test"):
        samples = opened(tmp_path, part)
        rows = rows_of(samples)
        assert [samples.classes[label] for label in samples.labels] == CLASSES[rows].tolist()
        inputs = [samples[index].inputs for index in range(len(samples))]
        assert [*inputs[0]] == ["vitals", "ecg", "photo"] and samples.channels == {"vitals": 3, "ecg": 2, "photo": 3}
        scaler = StandardScaler().fit(VITALS[train])
        expected = scaler.transform(VITALS[rows])
        np.testing.assert_allclose(torch.stack([x["vitals"] for x in inputs]), expected, atol=1e-5)
        assert all(x["vitals"].dtype == torch.float32 for x in inputs)
        # Steps after the end count neither in the statistics nor in the input.
        steps = np.concatenate([ECG[row, : STEPS[row]] for row in train])
        for row, x in zip(rows, inputs, strict=True):
            sequence, valid = (ECG[row] - steps.mean(0)) / steps.std(0), np.arange(5) < STEPS[row]
            np.testing.assert_allclose(x["ecg"][:, :2], sequence * valid[:, None], atol=1e-5)
            np.testing.assert_array_equal(x["ecg"][:, 2], valid)
            np.testing.assert_array_equal(x["photo"], np.moveaxis(PHOTO[row], 2, 0))
            raw = {"vitals": torch.from_numpy(VITALS[row]), "ecg": torch.from_numpy(ECG[row])}
            again = {name: standardised(samples.description, name, values) for name, values in raw.items()}
            torch.testing.assert_close(again["vitals"], x["vitals"])
            torch.testing.assert_close(again["ecg"][: STEPS[row]], x["ecg"][: STEPS[row], :2])
        pixels = PHOTO[train].reshape(-1, 3) / 255
        np.testing.assert_allclose(samples.normalisation["photo"].mean, pixels.mean(0), rtol=1e-6)
        np.testing.assert_allclose(samples.normalisation["photo"].std, pixels.std(0), rtol=1e-6)


def test_a_sample_with_other_features_is_refused(tmp_path: Path) -> None:
    """Also one with a single feature, which broadcasting would standardise to all of them."""
    prepare(tmp_path)
    samples = opened(tmp_path)
    shapes = {name: tuple(x.shape) for name, x in samples[0].inputs.items()}
    preprocess = Preprocessing("features", samples.description, shapes, Path("best.pt"))
    assert preprocess([{"vitals": VITALS[0], "ecg": ECG[0]}])["ecg"].shape == (1, 5, 3)
    for values in (VITALS[0, :2], VITALS[0, :1], 50.0):
        with pytest.raises(InputError, match=r"vitals has the shape \(.*\); best.pt takes 3 features in the last dim"):
            preprocess([{"vitals": values}])
    with pytest.raises(InputError, match=r"ecg has the shape \(5, 1\); best.pt takes 2 features in the last dimension"):
        preprocess([{"ecg": ECG[0, :, :1]}])


def test_a_second_call_changes_nothing_and_other_options_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = (tmp_path / "out" / "prepared.json").read_text()
    report = prepare(tmp_path)
    assert (report.prepared, report.already) == (0, SAMPLES) and report.counts["test"] == {"sick": 4, "well": 4}
    assert (tmp_path / "out" / "prepared.json").read_text() == before
    with pytest.raises(InputError, match="was prepared with missing_values error, not mean"):
        prepare(tmp_path, {"missing": "mean"})


def test_features_may_stay_as_they_are(tmp_path: Path) -> None:
    prepare(tmp_path, {"no_standardise": True, "modalities": ["vitals"]})
    samples = opened(tmp_path)
    np.testing.assert_allclose(samples[0].inputs["vitals"], VITALS[rows_of(samples)[0]], rtol=1e-6)
    assert [*samples.sources] == ["vitals"]


def with_gaps() -> np.ndarray:
    values = VITALS.copy()
    values[[3, 30], 1] = np.nan
    return values


def test_missing_values_are_an_error_that_names_them_or_the_mean(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vitals has missing values \(NaN\) in 2 of 40 samples: 03, 30; fill them in"):
        prepare(tmp_path, vitals=with_gaps())
    assert not (tmp_path / "out").exists()
    report = prepare(tmp_path, {"missing": "mean"}, vitals=with_gaps())
    assert "  vitals: missing values in 2 samples, filled" in report.notes
    for part in ("train", "test"):
        samples = opened(tmp_path, part)
        values = {name: samples[index].inputs["vitals"] for index, name in enumerate(samples.names)}
        assert all(values[name][1] == 0 for name in ("03", "30") if name in values)
    train = rows_of(opened(tmp_path))
    np.testing.assert_allclose(np.load(tmp_path / "out/arrays/vitals_mean.npy"), np.nanmean(with_gaps()[train], axis=0))
    np.testing.assert_allclose(
        np.load(tmp_path / "out/arrays/vitals_std.npy")[:2], np.nanstd(with_gaps()[train], axis=0)[:2]
    )


def test_nan_after_the_end_of_a_sequence_is_no_missing_value(tmp_path: Path) -> None:
    padded = np.where((np.arange(5) < STEPS[:, None])[:, :, None], ECG, np.nan)
    prepare(tmp_path, ecg=padded)
    samples = opened(tmp_path)
    assert all(samples[index].inputs["ecg"].isfinite().all() for index in range(len(samples)))


def test_several_labels_per_sample(tmp_path: Path) -> None:
    """Columns are sorted by name, as classes are."""
    labels = (random.random((SAMPLES, 3)) < 0.4).astype(np.int64)
    report = prepare(tmp_path, labels=labels, classes=np.array(["oedema", "cough", "fever"]))
    samples = opened(tmp_path)
    assert samples.classes == ["cough", "fever", "oedema"] and samples.description["task"] == "multilabel"
    for index, row in enumerate(rows_of(samples)):
        assert samples[index].label.tolist() == labels[row, [1, 2, 0]].tolist()
    assert report.counts["train"]["oedema"] + report.counts["test"]["oedema"] == labels[:, 0].sum()
    assert report.text().splitlines()[-1].split() == ["all", str(len(samples)), str(SAMPLES - len(samples))]
    with (tmp_path / "out" / "train.csv").open(newline="") as file:
        assert next(csv.reader(file)) == [samples.names[0], *map(str, samples.labels[0])]


def test_scores_are_standardised_for_training(tmp_path: Path) -> None:
    scores = random.normal(60, 15, SAMPLES)
    report = prepare(tmp_path, labels=scores)
    samples = opened(tmp_path)
    rows = rows_of(samples)
    assert samples.classes == ["score"] and samples.labels == scores[rows].tolist()
    expected = (scores[rows] - scores[rows].mean()) / scores[rows].std()
    np.testing.assert_allclose([samples[index].label for index in range(len(samples))], expected, atol=1e-12)
    assert opened(tmp_path, "test").label_scale == samples.label_scale
    assert report.counts == {"train": {"score": len(samples)}, "test": {"score": SAMPLES - len(samples)}}


@pytest.mark.parametrize("numbers", [False, True])
def test_a_split_and_names_of_ones_own(numbers: bool, tmp_path: Path) -> None:
    split = np.arange(SAMPLES) % 3
    names = np.array([f"patient {row}, left" for row in range(SAMPLES)])
    report = prepare(tmp_path, split=split if numbers else np.array(["train", "val", "Test"])[split], names=names)
    assert report.split.sentence == "as mine.npz has it"
    for part, number in (("train", 0), ("valid", 1), ("test", 2)):
        assert opened(tmp_path, part).names == names[split == number].tolist()


LONG = np.zeros((SAMPLES + 1, 3))


@pytest.mark.parametrize(
    ("changes", "options", "complaint"),
    [
        ({"labels": None}, {}, "has no array 'labels', but vitals, ecg, ecg_lengths, photo; name the labels by"),
        ({"labels": np.array([1.5, np.nan] * 20)}, {}, r"labels are missing \(NaN, .*\) in 20 rows, from 0: 1, 3"),
        ({"labels": CLASSES.astype(object)}, {}, "'labels' cannot be read .it holds Python objects"),
        ({"vitals": LONG}, {}, r"vitals float64 \(41, 3\) does not have one row for each of the 40 labels"),
        ({"vitals": VITALS + np.inf}, {}, "vitals has infinite values in 40 rows"),
        ({"ecg_lengths": STEPS + 3}, {}, "ecg_lengths are not all between 0 and the 5 steps of ecg"),
        ({"values": VITALS}, {}, "a modality cannot be called 'values'"),
        ({"split": np.array(["train", "tset"] * 20)}, {}, "split is not train, valid or test .*: 'tset'"),
        ({"split": np.zeros(SAMPLES, int)}, {}, "no sample is for testing"),
        ({"names": np.array(["a"] * SAMPLES)}, {}, "names are not 40 different ones .'a' is there more than once"),
        ({}, {"modalities": ["vital"]}, "has no array 'vital' for --modalities; it has vitals, ecg, photo"),
        ({"vitals": None, "ecg": None, "ecg_lengths": None, "photo": None}, {}, "has no array of features"),
        ({"classes": np.array(["a", "a"]), "labels": np.arange(SAMPLES) % 2}, {}, "are not 2 different names"),
    ],
)  # fmt: skip
def test_wrong_content_is_refused(changes, options, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        prepare(tmp_path, options, **changes)
    assert not (tmp_path / "out").exists()


INTEGERS = np.array([2, 10, 2, 0])
ONE_HOT = np.eye(3)[[0, 2, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (np.array(["b", "a", "b"]), None, ("classification", ["a", "b"], [1, 0, 1])),
        (np.array([b"b", b"a"]), None, ("classification", ["a", "b"], [1, 0])),
        (INTEGERS, None, ("classification", ["00", "02", "10"], [1, 2, 1, 0])),
        (INTEGERS[:, None].astype(np.uint8), None, ("classification", ["00", "02", "10"], [1, 2, 1, 0])),
        (INTEGERS.astype(float), "classification", ("classification", ["00", "02", "10"], [1, 2, 1, 0])),
        (INTEGERS, "regression", ("regression", ["score"], [2.0, 10.0, 2.0, 0.0])),
        (np.array([0.5, 1.0]), None, ("regression", ["score"], [0.5, 1.0])),
        (np.array([True, False, True]), None, ("classification", ["0", "1"], [1, 0, 1])),
        (ONE_HOT, "classification", ("classification", ["0", "1", "2"], [0, 2, 1, 0])),
        (ONE_HOT[:2], "multilabel", ("multilabel", ["0", "1", "2"], [(1, 0, 0), (0, 0, 1)])),
        (np.array([[1, 1], [0, 0]]), None, ("multilabel", ["0", "1"], [(1, 1), (0, 0)])),
    ],
)
def test_the_task_follows_from_the_labels(labels: np.ndarray, task, expected) -> None:
    assert tuple(read_labels(labels, task, None, "file: labels")) == expected


@pytest.mark.parametrize(
    ("labels", "task", "complaint"),
    [
        (np.array([1.0, 2.0, 1.0]), None, "whole numbers in floating point; give --task classification or --task reg"),
        (np.arange(50), None, "integers that hardly repeat; give --task classification or --task regression"),
        (ONE_HOT, None, "every row has a single 1; give --task classification .* or --task multilabel"),
        (np.array([[0.5, 1], [1, 0]]), None, "neither one label per sample nor zeros and ones"),
        (np.array([0.5, 1.0]), "classification", "not whole numbers"),
        (np.array([[1, 1], [0, 1]]), "classification", "do not mark one class per row"),
        (np.array([[1, 1], [0, 1]]), "regression", "several scores per sample"),
        (np.array(["a", "b"]), "regression", "names of classes, which --task regression cannot use"),
        (np.array([0, 1]), "multilabel", "not zeros and ones .N, C."),
        (np.array(["a", " "]), None, "missing .* in 1 rows, from 0: 1"),
        (np.zeros((2, 2, 2)), None, "are not labels"),
    ],
)
def test_ambiguous_and_wrong_labels_are_refused(labels: np.ndarray, task, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_labels(labels, task, None, "file: labels")


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "prepared"),
    [
        ((4,), np.float64, "vector", (1,)),
        ((4, 7), np.int16, "vector", (7,)),
        ((4, 7, 3), np.float32, "sequence", (7, 3)),
        ((4, 9, 8), np.uint8, "image", (1, 9, 8)),
        ((4, 9, 8, 3), np.uint8, "image", (3, 9, 8)),
        ((4, 3, 9, 8), np.uint8, "image", (3, 9, 8)),
        ((4, 1, 9, 3), np.uint8, "image", None),
        ((4, 3, 9, 9), np.float32, "map", (3, 9, 9)),
        ((4, 9, 9, 9), np.uint8, "image", None),
        ((4, 12, 9, 8), np.float32, "map", (12, 9, 8)),
        ((4, 9, 8, 2), np.float32, "map", (2, 9, 8)),
        ((4, 3, 3, 1), np.uint8, "image", (1, 3, 3)),
        ((4, 9, 9, 9, 3), np.float32, "map", None),
    ],
)
def test_the_shape_tells_what_an_array_holds(shape, dtype, kind: str, prepared) -> None:
    array = np.zeros(shape, dtype)
    if prepared is None:
        with pytest.raises(InputError, match=r"neither \(N, C, H, W\) nor|too many axes"):
            modality_of("x", array, None, 4, "file")
    else:
        modality = modality_of("x", array, None, 4, "file")
        assert (modality.kind, modality.array.shape[1:]) == (kind, prepared)


def test_a_safetensors_file_has_the_names_of_its_classes_in_its_metadata(tmp_path: Path) -> None:
    numpy_file = pytest.importorskip("safetensors.torch", reason="reads .safetensors")
    labels = torch.arange(SAMPLES) % 2
    content = {
        "vitals": torch.from_numpy(VITALS).bfloat16(),
        "labels": labels,
        "split": (torch.arange(SAMPLES) % 5 == 0) * 2,
    }
    numpy_file.save_file(content, tmp_path / "mine.safetensors", metadata={"classes": json.dumps(["well", "sick"])})
    FeatureArrays.prepare(raw=tmp_path / "mine.safetensors", out=tmp_path / "out", no_standardise=True)
    samples = opened(tmp_path, "test")
    assert samples.names == [f"{row:02d}" for row in range(0, SAMPLES, 5)]
    assert [samples.classes[label] for label in samples.labels] == [
        ["well", "sick"][row % 2] for row in range(0, 40, 5)
    ]
    torch.testing.assert_close(samples[1].inputs["vitals"], torch.from_numpy(VITALS[5]).bfloat16().float())


def test_a_huggingface_data_set(tmp_path: Path) -> None:
    """Columns are modalities, sequences of different lengths are padded, and the parts are the split."""
    datasets = pytest.importorskip("datasets", reason="reads HuggingFace data sets")
    features = datasets.Features(
        vitals=datasets.Sequence(datasets.Value("float32")),
        ecg=datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
        age=datasets.Value("int64"),
        label=datasets.ClassLabel(names=["well", "sick"]),
    )

    def part(rows) -> "datasets.Dataset":
        columns = {
            "vitals": [VITALS[row] for row in rows],
            "ecg": [ECG[row, : STEPS[row]].tolist() for row in rows],
            "age": [*rows],
            "label": [row % 2 for row in rows],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict(train=part(range(10)), test=part(range(10, 14))).save_to_disk(tmp_path / "hf")
    report = FeatureArrays.prepare(raw=tmp_path / "hf", out=tmp_path / "out", no_standardise=True)
    assert "not used         age (choose by --modalities NAME …)" in report.notes
    samples = opened(tmp_path, "test")
    assert (
        samples.names == ["10", "11", "12", "13"]
        and samples.classes == ["sick", "well"]
        and samples.labels == [1, 0, 1, 0]
    )
    for row, index in zip(range(10, 14), range(4), strict=True):
        inputs = samples[index].inputs
        np.testing.assert_allclose(inputs["vitals"], VITALS[row], rtol=1e-6)
        np.testing.assert_allclose(inputs["ecg"][: STEPS[row], :2], ECG[row, : STEPS[row]], rtol=1e-6)
        assert inputs["ecg"][:, 2].sum() == STEPS[row]


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.pkl", "folder"])
def test_files_of_other_kinds_are_refused(name: str, tmp_path: Path) -> None:
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_bytes(b"no arrays")
    with pytest.raises(
        InputError, match=r"is not a readable|is not a .npz file, a .safetensors file|not one that save_to"
    ):
        FeatureArrays.prepare(raw=path, out=tmp_path / "out")
