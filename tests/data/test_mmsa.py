import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmpareto.data import mmsa, mmsa_files
from mmpareto.data.loading import layout
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.mmsa import CHSIMS, MOSEI, MOSI
from mmpareto.data.preparation.prepared_folder import locked
from mmpareto.errors import InputError

SAMPLES = {"train": 6, "valid": 3, "test": 4}
STEPS = {"text": 7, "audio": 11, "vision": 9}
SCORES = {
    MOSI: {"train": [-3.0, -0.4, 0.0, 0.6, 1.8, 3.0], "valid": [-1.0, 0.0, 1.0], "test": [-2.5, 0.5, 2.5, 0.0]},
    CHSIMS: {"train": [-1.0, -0.4, 0.0, 0.2, 0.8, 1.0], "valid": [-0.6, 0.0, 0.6], "test": [-0.8, 0.2, 1.0, 0.0]},
}
SCORES[MOSEI] = SCORES[MOSI]
SIZES = {MOSI: (5, 20), MOSEI: (74, 35), CHSIMS: (33, 709)}


def padded(generator, samples, steps, size, dtype=np.float32):
    """Random sequences of 1 to `steps` steps, padded with zeros, and their lengths."""
    values = generator.uniform(0.5, 2.0, (samples, steps, size)).astype(dtype)
    lengths = generator.integers(1, steps + 1, samples)
    for row, length in zip(values, lengths, strict=True):
        row[length:] = 0
    return values, lengths


def content(data_set=MOSI, aligned=False):
    """Content of an MMSA feature file: arrays, float32 labels, text, tokens and names per part."""
    generator = np.random.default_rng(0)
    made = {}
    for part, samples in SAMPLES.items():
        scores = np.array(SCORES[data_set][part], np.float32)
        text, text_lengths = padded(generator, samples, STEPS["text"], 768)
        entry = {
            "raw_text": np.array([f"words of {i}" for i in range(samples)]),
            "id": [f"{part}{i}x-Z$_${i}" for i in range(samples)],
            "text": text,
            "text_bert": generator.integers(0, 100, (samples, 3, STEPS["text"])).astype(np.float32),
            "annotations": ["Negative"] * samples,
            "regression_labels": scores,
            "classification_labels": np.sign(scores) + 1,
        }
        for name, size in zip(("audio", "vision"), SIZES[data_set], strict=True):
            steps = STEPS["text"] if aligned else STEPS[name]
            entry[name], lengths = padded(generator, samples, steps, size, np.float64)  # audio is float64 in some files
            if aligned:
                for row, length in zip(entry[name], text_lengths, strict=True):
                    row[length:] = 0
            else:
                entry[f"{name}_lengths"] = lengths.tolist()
        made[part] = entry
    if data_set is CHSIMS:
        for entry in made.values():
            entry |= {f"regression_labels_{letter}": entry["regression_labels"] for letter in "TAV"}
    return made


def write(path, what, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(what, protocol=protocol))
    return path


def text_lengths(entry):
    return [max((step + 1 for step in range(len(row)) if row[step].any()), default=0) for row in entry["text"]]


def expected(entry, name, index, aligned=False):
    """Expected input (T, D + 1), computed step by step from the raw content."""
    steps = text_lengths(entry)[index] if aligned or name == "text" else entry[f"{name}_lengths"][index]
    rows = []
    for step, row in enumerate(entry[name][index]):
        valid = step < steps
        rows.append(
            [float(np.float32(value)) if valid and np.isfinite(value) else 0.0 for value in row] + [float(valid)]
        )
    return torch.tensor(rows)


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw" / "unaligned_50.pkl", content())


@pytest.mark.parametrize("data_set", [MOSI, MOSEI, CHSIMS])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_sample_is_the_content_of_the_file_and_its_mask(tmp_path, data_set, aligned):
    made = content(data_set, aligned)
    path = write(tmp_path / "some name.pkl", made)
    report = data_set.prepare(raw=path, out=tmp_path / "out")
    assert report.complete and report.prepared == report.found == 13 and report.already == 0
    for part, entry in made.items():
        dataset = data_set.open(tmp_path / "out", part, training=False)
        assert dataset.channels == {"text": 768, "audio": SIZES[data_set][0], "vision": SIZES[data_set][1]}
        assert [*dataset.names] == entry["id"]
        for index in range(SAMPLES[part]):
            inputs = dataset[index].inputs
            assert [*inputs] == ["text", "audio", "vision"]
            for name, values in inputs.items():
                assert values.dtype == torch.float32
                assert torch.equal(values, expected(entry, name, index, aligned))
        names, scores = layout.read_scores(tmp_path / "out", part)
        assert names == entry["id"]
        assert np.array_equal(scores, entry["regression_labels"].astype(np.float64))  # to the last digit
    assert ("aligned, without lengths" in report.text()) == aligned


def test_files_of_the_prepared_folder(raw, tmp_path):
    MOSI.prepare(raw=raw, out=tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    arrays = {f"arrays/{part}_{what}.npy" for part in SAMPLES for what in ("text", "audio", "vision", "lengths")}
    assert files == arrays | {"stat.csv", "train.csv", "valid.csv", "test.csv", "prepared.json", "checksums.sha256"}
    assert (tmp_path / "out" / "stat.csv").read_text() == "score\n"
    lengths = np.load(tmp_path / "out" / "arrays" / "test_lengths.npy")
    entry = content()["test"]
    assert lengths.T.tolist() == [text_lengths(entry), entry["audio_lengths"], entry["vision_lengths"]]


@pytest.mark.filterwarnings("error")
def test_padding_and_non_finite_values_become_zero(tmp_path):
    made = content()
    entry = made["train"]
    entry["audio_lengths"][2] = 3
    entry["audio"][2] = 1.0
    entry["audio"][2, 1, :3] = [-np.inf, np.nan, 1e300]  # the last one overflows float32
    entry["audio"][2, 5:, 0] = -np.inf  # in the padding, so not counted
    report = MOSI.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")
    values = MOSI.open(tmp_path / "out", "train", training=True)[2].inputs["audio"]
    one = [1.0] * 6
    assert values.tolist() == [one, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], one] + [[0.0] * 6] * 8
    assert "train: 3 values of audio were NaN or infinite, and are 0" in report.text()
    assert "train: 3 values" in (tmp_path / "out" / "prepared.json").read_text()
    assert "vision were" not in report.text()


@pytest.mark.parametrize("aligned", [False, True])
def test_padding_in_front_is_moved_to_the_end(tmp_path, aligned):
    plain, made = content(aligned=aligned), content(aligned=aligned)
    for name in ("text", "audio", "vision") if aligned else ("text",):
        for index, length in enumerate(text_lengths(plain["test"])):
            made["test"][name][index] = np.roll(made["test"][name][index], STEPS["text"] - length, axis=0)
    report = MOSI.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")
    dataset = MOSI.open(tmp_path / "out", "test", training=False)
    for index in range(SAMPLES["test"]):
        for name, values in dataset[index].inputs.items():
            assert torch.equal(values, expected(plain["test"], name, index, aligned))
    assert "sequences are padded in front" in report.text()


def test_a_zero_step_in_the_middle_and_a_sample_without_steps(tmp_path):
    made = content(aligned=True)
    made["test"]["text"][0] = 1.0
    made["test"]["text"][0, 2] = 0
    made["test"]["audio"][0, 0] = 0
    for name in ("text", "audio", "vision"):
        made["test"][name][1] = 0
    MOSI.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")
    dataset = MOSI.open(tmp_path / "out", "test", training=False)
    assert dataset[0].inputs["audio"][:, -1].tolist() == [1.0] * 7
    assert not any(values.any() for values in dataset[1].inputs.values())


def test_lengths_beyond_the_array_are_clipped_and_reported(tmp_path):
    made = content()
    made["train"]["vision_lengths"] = np.array([9, 12, 9, 30, 1, 2])
    report = MOSI.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")
    assert "train: 2 vision_lengths exceed the 9 steps there are: cut" in report.text()
    assert MOSI.open(tmp_path / "out", "train", training=False)[3].inputs["vision"][:, -1].sum() == 9
    assert np.load(tmp_path / "out" / "arrays" / "train_lengths.npy")[:, 2].tolist() == [9, 9, 9, 9, 1, 2]


def test_names_of_two_parts_and_labels_in_a_column(tmp_path):
    made = content()
    made["test"]["id"] = np.array([["vid", "1.5"], ["vid", "2"], ["w", "3"], ["w", "4"]])
    made["test"]["regression_labels"] = made["test"]["regression_labels"].reshape(-1, 1)
    MOSI.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")
    assert layout.read_scores(tmp_path / "out", "test")[0] == ["vid$_$1.5", "vid$_$2", "w$_$3", "w$_$4"]


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_pickles_of_old_and_new_numpy(tmp_path, monkeypatch, protocol, core):
    """NumPy 1 has numpy.core.multiarray, NumPy 2 numpy._core.multiarray."""
    named = pickle.whichmodule
    monkeypatch.setattr(pickle, "whichmodule", lambda thing, name: named(thing, name).replace("numpy._core", core))
    made = content()
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle._Pickler(file, protocol).dump(made)  # the pure-Python pickler calls `whichmodule`
    assert f"{core}.".encode() in (tmp_path / "a.pkl").read_bytes()
    MOSI.prepare(raw=tmp_path / "a.pkl", out=tmp_path / "out")
    sample = MOSI.open(tmp_path / "out", "valid", training=False)[1]
    assert torch.equal(sample.inputs["vision"], expected(made["valid"], "vision", 1))


class Malice:
    def __reduce__(self):
        return os.mkdir, ("malice-was-here",)


def test_a_malicious_file_is_refused_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = content()
    made["train"]["extra"] = Malice()
    path = write(tmp_path / "evil.pkl", made)
    with pytest.raises(InputError, match=r"evil\.pkl.*mkdir"):
        MOSI.prepare(raw=path, out=tmp_path / "out")
    assert not (tmp_path / "malice-was-here").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused(raw, tmp_path, share):
    data = raw.read_bytes()
    raw.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"unaligned_50\.pkl"):
        MOSI.prepare(raw=raw, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def without(entry, key):
    del entry[key]


def put(entry, **values):
    entry |= values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: without(e, "text"), r"test: 'text' is missing, only text_bert .*unaligned_50\.pkl and aligned_50"),
        (lambda e: without(e, "vision"), "'vision' is missing; those of CMU-MOSI are"),
        (lambda e: without(e, "audio_lengths"), "vision_lengths, but not both"),
        (lambda e: (without(e, "audio_lengths"), without(e, "vision_lengths")), "the sequences are not aligned"),
        (lambda e: put(e, text=e["text"][:, :, :300]), "'text' has 300 features per step, not 768"),
        (lambda e: put(e, audio=e["vision"]), "'audio' has 20 features per step, not 5"),
        (lambda e: put(e, audio=e["audio"][:, 0]), "'audio' is not an array of numbers"),
        (lambda e: put(e, audio=e["audio"].tolist()), "'audio' is not an array of numbers"),
        (lambda e: put(e, audio=e["audio"].astype(object)), "'audio' is not an array of numbers"),
        (lambda e: put(e, audio=e["audio"][:3]), "4 names but 3 samples of 'audio'"),
        (lambda e: put(e, id=[]), "0 names but 4 samples"),
        (lambda e: put(e, id=["a", "b", "c", "d,e"]), "'d,e' cannot be the name"),
        (lambda e: put(e, regression_labels=[0.0, 1.0, 3.2, 0.0]), "is not between -3 and 3"),
        (lambda e: put(e, regression_labels=[0.0, 1.0, np.nan, 0.0]), "is not between -3 and 3"),
        (lambda e: put(e, regression_labels=["good"] * 4), "does not contain numbers"),
        (lambda e: put(e, regression_labels=[0.0]), "4 names but 1 'regression_labels'"),
        (lambda e: put(e, vision_lengths=[1, 2, 3, -1]), "vision_lengths are not numbers of steps"),
        (lambda e: put(e, vision_lengths=[1, 2, 3, 2.5]), "vision_lengths are not numbers of steps"),
        (lambda e: put(e, vision_lengths=[1, 2, 3, np.nan]), "vision_lengths are not numbers of steps"),
        (lambda e: put(e, vision=e["vision"][:, :8]), "padded to different lengths"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, change, words):
    made = content()
    change(made["test"])
    path = write(tmp_path / "a.pkl", made)
    with pytest.raises(InputError, match=rf"a\.pkl.*{words}"):
        MOSI.prepare(raw=path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", [[1, 2], {"train": {}}, {"train": {}, "valid": [], "test": {}}, None])
def test_a_pickle_of_other_data_is_refused(tmp_path, made):
    with pytest.raises(InputError, match="not a feature file of MMSA"):
        MOSI.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")


def test_another_data_set_with_the_same_file_name_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match="has 5 features per step, not 74; those of CMU-MOSEI are"):
        MOSEI.prepare(raw=raw, out=tmp_path / "out")


# --- choice of the file, and its checksum ---


def test_the_file_is_chosen_from_a_folder(tmp_path):
    unaligned = write(tmp_path / "MMSA" / "MOSI" / "Processed" / "unaligned_50.pkl", content())
    write(unaligned.with_name("aligned_50.pkl"), content(aligned=True))
    for number, folder in enumerate([tmp_path / "MMSA", tmp_path / "MMSA" / "MOSI", unaligned.parent]):
        report = MOSI.prepare(raw=folder, out=tmp_path / str(number))
        assert "unaligned_50.pkl: SHA-256" in report.text()
    assert "\n  aligned_50.pkl: SHA-256" in MOSI.prepare(raw=folder, out=tmp_path / "a", features="aligned").text()
    unaligned.unlink()
    assert "\n  aligned_50.pkl: SHA-256" in MOSI.prepare(raw=folder, out=tmp_path / "b").text()
    with pytest.raises(InputError, match=r"does not contain unaligned_50\.pkl;.*github\.com/thuiar/MMSA"):
        MOSI.prepare(raw=folder, out=tmp_path / "c", features="unaligned")
    with pytest.raises(InputError, match=r"does not contain unaligned_39\.pkl"):
        CHSIMS.prepare(raw=folder, out=tmp_path / "c")
    with pytest.raises(InputError, match=r"absent does not exist; .*github\.com/thuiar/MMSA"):
        MOSI.prepare(raw=tmp_path / "absent", out=tmp_path / "c")
    with pytest.raises(InputError, match="omit the flag"):
        MOSI.prepare(raw=unaligned.with_name("aligned_50.pkl"), out=tmp_path / "c", features="aligned")
    assert not (tmp_path / "c").exists()


def test_the_published_checksum_makes_it_official(raw, tmp_path, monkeypatch):
    report = MOSI.prepare(raw=raw, out=tmp_path / "one")
    assert not report.split.official and "not the published one (78e0f8b5ef8ff715" in report.text()
    assert not json.loads((tmp_path / "one" / "prepared.json").read_text())["official_split"]
    digest = subprocess.run(["sha256sum", str(raw)], capture_output=True, text=True, check=True).stdout.split()[0]
    monkeypatch.setattr(MOSI, "published", (mmsa.FeatureFile("unaligned", "unaligned_50.pkl", digest),))
    report = MOSI.prepare(raw=raw, out=tmp_path / "two")
    assert report.split.official and report.split.sentence == "official split"
    assert f"SHA-256 {digest}, the published one" in report.text()
    assert json.loads((tmp_path / "two" / "prepared.json").read_text())["official_split"]


def test_published_files():
    """Kinds, file names and first digits of the checksums, as in data.md."""
    assert {
        (data_set.name, file.kind): (file.name, file.sha256[:8], len(file.sha256))
        for data_set in (MOSI, MOSEI, CHSIMS)
        for file in data_set.published
    } == {
        ("mosi", "unaligned"): ("unaligned_50.pkl", "78e0f8b5", 64),
        ("mosi", "aligned"): ("aligned_50.pkl", "d3994fd2", 64),
        ("mosei", "unaligned"): ("unaligned_50.pkl", "ad8b23d5", 64),
        ("mosei", "aligned"): ("aligned_50.pkl", "45eccfb7", 64),
        ("chsims", "unaligned"): ("unaligned_39.pkl", "c9e20c13", 64),
    }


# --- repeated preparation ---


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_the_same_file_again_changes_nothing(raw, tmp_path):
    first = MOSI.prepare(raw=raw, out=tmp_path / "out")
    before = snapshot(tmp_path / "out")
    report = MOSI.prepare(raw=raw, out=tmp_path / "out")
    assert (report.found, report.prepared, report.already) == (13, 0, 13)
    assert report.counts == first.counts and report.split == first.split
    assert snapshot(tmp_path / "out") == before


def test_counts_by_sign(raw, tmp_path):
    counts = MOSI.prepare(raw=raw, out=tmp_path / "out").counts
    assert counts == {
        "train": {"negative": 2, "neutral": 1, "positive": 3},
        "valid": {"negative": 1, "neutral": 1, "positive": 1},
        "test": {"negative": 1, "neutral": 1, "positive": 2},
    }


def test_another_file_and_a_folder_of_other_data_are_refused(raw, tmp_path):
    MOSI.prepare(raw=raw, out=tmp_path / "out")
    before = snapshot(tmp_path / "out")
    other = write(tmp_path / "other.pkl", content(aligned=True))
    with pytest.raises(InputError, match=r"prepared with sha256 \w+, not \w+\. .*another --out"):
        MOSI.prepare(raw=other, out=tmp_path / "out")
    assert snapshot(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="other software prepared"):
        MOSI.prepare(raw=raw, out=tmp_path / "mine")
    (tmp_path / "out" / "prepared.json").write_text("{")
    with pytest.raises(InputError, match=r"prepared\.json is damaged"):
        MOSI.prepare(raw=raw, out=tmp_path / "out")


def test_an_interrupted_run_leaves_no_lists_and_can_be_repeated(raw, tmp_path, monkeypatch):
    written = []

    def interrupted(path, *arguments):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        return write_sequences(path, *arguments)

    write_sequences = mmsa_files._write_sequences
    with monkeypatch.context() as patch:
        patch.setattr(mmsa_files, "_write_sequences", interrupted)
        with pytest.raises(KeyboardInterrupt):
            MOSI.prepare(raw=raw, out=tmp_path / "out")
    assert not (tmp_path / "out" / "prepared.json").exists() and not (tmp_path / "out" / "train.csv").exists()
    assert MOSI.prepare(raw=raw, out=tmp_path / "out").prepared == 13
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith((".", "preparing"))]


def test_concurrent_preparation_is_refused(raw, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(InputError, match="another process is preparing"):
        MOSI.prepare(raw=raw, out=tmp_path / "out")


# --- classes ---


@pytest.mark.parametrize(
    ("data_set", "n_classes", "classes", "labels", "indices"),
    [
        (MOSI, None, ["-3", "-2", "-1", "0", "+1", "+2", "+3"], [0, 3, 3, 4, 5, 6], range(6)),
        (MOSEI, None, ["-3", "-2", "-1", "0", "+1", "+2", "+3"], [0, 3, 3, 4, 5, 6], range(6)),
        (MOSI, 7, ["-3", "-2", "-1", "0", "+1", "+2", "+3"], [0, 3, 3, 4, 5, 6], range(6)),
        (MOSI, 5, ["-2", "-1", "0", "+1", "+2"], [0, 2, 2, 3, 4, 4], range(6)),
        (MOSI, 3, ["negative", "neutral", "positive"], [0, 0, 1, 2, 2, 2], range(6)),
        (MOSI, 2, ["negative", "positive"], [0, 0, 1, 1, 1], [0, 1, 3, 4, 5]),
        (
            CHSIMS,
            None,
            ["negative", "weakly negative", "neutral", "weakly positive", "positive"],
            [0, 1, 2, 3, 4, 4],
            range(6),
        ),
        (CHSIMS, 3, ["negative", "neutral", "positive"], [0, 0, 1, 2, 2, 2], range(6)),
        (CHSIMS, 2, ["negative", "positive"], [0, 0, 1, 1, 1], [0, 1, 3, 4, 5]),
    ],
)
def test_classes_are_chosen_when_the_folder_is_opened(tmp_path, data_set, n_classes, classes, labels, indices):
    made = content(data_set)
    data_set.prepare(raw=write(tmp_path / "a.pkl", made), out=tmp_path / "out")
    options = InputOptions(n_classes=n_classes)
    dataset = data_set.open(tmp_path / "out", "train", training=False, options=options)
    assert [*dataset.classes] == classes and [*dataset.labels] == labels
    assert [*dataset.names] == [made["train"]["id"][index] for index in indices]
    for number, index in enumerate(indices):
        sample = dataset[number]
        assert sample.label == labels[number]
        assert torch.equal(sample.inputs["audio"], expected(made["train"], "audio", index))
    subset = data_set.open(
        tmp_path / "out", "train", training=False, options=options, subset=[3, 1], modalities=["text"]
    )
    assert [*subset[0].inputs] == ["text"]
    assert torch.equal(subset[0].inputs["text"], expected(made["train"], "text", [*indices][3]))


def test_an_unsupported_number_of_classes_is_refused(raw, tmp_path):
    MOSI.prepare(raw=raw, out=tmp_path / "out")
    with pytest.raises(InputError, match=r"--n_classes is 4, but .* it can be 2, 3, 5, 7"):
        MOSI.open(tmp_path / "out", "train", training=False, options=InputOptions(n_classes=4))
    with pytest.raises(InputError, match=r"--n_classes is 7, but .* it can be 2, 3, 5"):
        CHSIMS.open(tmp_path / "out", "train", training=False, options=InputOptions(n_classes=7))


# --- damaged prepared folders ---


@pytest.mark.parametrize("text", ["", "a,b\n", "a\n", "a,1.0,2\n", "a,nan\n", "\xff\n"])
def test_a_damaged_list_is_refused(raw, tmp_path, text):
    MOSI.prepare(raw=raw, out=tmp_path / "out")
    (tmp_path / "out" / "test.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"test\.csv"):
        MOSI.open(tmp_path / "out", "test", training=False)


def test_damaged_arrays_are_refused(raw, tmp_path):
    MOSI.prepare(raw=raw, out=tmp_path / "out")
    array = tmp_path / "out" / "arrays" / "test_audio.npy"
    whole = array.read_bytes()
    for broken in (b"", whole[:50], whole[:-8], pickle.dumps(Malice())):
        array.write_bytes(broken)
        with pytest.raises(InputError, match=r"test_audio\.npy"):
            MOSI.open(tmp_path / "out", "test", training=False)
    array.unlink()
    with pytest.raises(InputError, match=r"test_audio\.npy"):
        MOSI.open(tmp_path / "out", "test", training=False)
    array.write_bytes(whole)
    lines = (tmp_path / "out" / "test.csv").read_text().splitlines()
    (tmp_path / "out" / "test.csv").write_text("\n".join(lines[1:]) + "\n")  # rows would belong to the wrong samples
    with pytest.raises(InputError, match=r"names 3 samples"):
        MOSI.open(tmp_path / "out", "test", training=False)


def test_the_module_does_not_import_torch():
    code = "import sys; import mmpareto.data.mmsa; sys.exit('torch' in sys.modules)"
    path = os.pathsep.join(sys.path)
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == 0
