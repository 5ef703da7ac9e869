import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.data.preparation.splits import PublishedFile, published_split, random_split, speaker_split, stratified
from mmpareto.errors import InputError

LABELS = {f"{actor}_{i}_{label}": label for actor in range(1001, 1021) for i in range(3) for label in ("A", "B")}


@given(
    labels=st.lists(st.integers(0, 5), max_size=120),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_every_class_is_on_both_sides_in_proportion(labels, fraction, seed):
    chosen = stratified(labels, fraction, seed)
    assert chosen.dtype == np.int64 and list(chosen) == sorted(set(chosen.tolist()))
    held_out, counts = Counter(labels[i] for i in chosen), Counter(labels)
    for label, count in counts.items():
        if count == 1:
            assert held_out[label] == 0
        else:
            assert 1 <= held_out[label] <= count - 1
            assert abs(held_out[label] - fraction * count) <= 1
    assert np.array_equal(stratified(labels, fraction, seed), chosen)


def test_the_choice_depends_on_the_seed_and_is_uniform():
    labels = [i % 2 for i in range(40)]
    assert list(stratified(labels, 0.25, 0)) != list(stratified(labels, 0.25, 1))
    times_chosen = np.zeros(40)
    for seed in range(400):
        times_chosen[stratified(labels, 0.25, seed)] += 1
    assert times_chosen.sum() == 400 * 10
    assert times_chosen.min() > 60 and times_chosen.max() < 140  # 100 expected; the standard deviation is 8.7


def test_the_choice_follows_from_the_raw_output_of_pcg64():
    """Without NumPy's distributions: a double consists of the upper 53 bits of the generator's output."""
    raw = np.random.PCG64(7).random_raw(10)
    doubles = (raw >> np.uint64(11)) / 2.0**53
    assert list(stratified(["a"] * 10, 0.3, 7)) == sorted(np.argsort(doubles)[:3].tolist())


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        stratified(["a", "a"], fraction, 0)


def test_random_split_is_stratified_and_does_not_depend_on_the_order_of_files():
    split = random_split(LABELS, seed=3)
    assert sorted([*split.train, *split.test]) == sorted(LABELS)
    assert Counter(LABELS[name] for name in split.test) == {"A": 6, "B": 6}
    assert random_split(dict(reversed(LABELS.items())), seed=3) == split
    assert not split.official and "seed 3" in split.sentence and "not the official one" in split.sentence


def test_speaker_split_shares_no_speaker():
    split = speaker_split(LABELS, lambda name: name[:4], seed=0)
    train, test = ({name[:4] for name in part} for part in (split.train, split.test))
    assert not train & test and len(test) == 2 and len(train) == 18
    assert len(split.train) + len(split.test) == len(LABELS)
    assert not split.official and "speaker-disjoint" in split.sentence
    assert len(speaker_split(["1_a", "2_a"], lambda name: name[0], seed=0).test) == 1
    with pytest.raises(InputError, match="at least two speakers"):
        speaker_split(["1_a", "1_b"], lambda name: name[0], seed=0)


@pytest.fixture
def published(tmp_path):
    """A published split of four clips, on disk with Windows line ends, and its checksums and class counts."""
    texts = {"train": "a_X,X\nb_Y,Y\nc_Y,Y\n", "test": "d_X,X\n"}
    counts = {"train": {"X": 1, "Y": 2}, "test": {"X": 1, "Y": 0}}
    for part, text in texts.items():
        (tmp_path / f"{part}.csv").write_bytes(text.replace("\n", "\r\n").encode())
    return tmp_path, {
        part: PublishedFile(hashlib.sha256(texts[part].encode()).hexdigest(), counts[part]) for part in texts
    }


def test_the_official_split_is_recognised_by_its_checksum(published):
    folder, files = published
    split = published_split(folder, files, {})
    assert split.official and split.sentence == "official split"
    assert (split.train, split.test) == (["a_X", "b_Y", "c_Y"], ["d_X"])
    assert all("the official one" in line and "not" not in line.split("SHA-256")[1] for line in split.checks)


def test_another_split_is_used_and_reported_as_unofficial(published):
    folder, files = published
    (folder / "train.csv").write_text("b_Y,Y\na_X,X\nc_Y,Y\n")
    split = published_split(folder, files, {})
    assert not split.official and split.train == ["b_Y", "a_X", "c_Y"]
    assert "whose checksum is not the official one" in split.sentence
    assert "not the official one" in split.checks[0] and files["train"].sha256 in split.checks[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a_X,X\nb_Y\n", r"train\.csv, line 2: 'b_Y' is not `clip,class`"),
        ("a_X,Z\n", r"line 1: 'a_X,Z'"),
        ("a_X,X\na_X,X\n", r"line 2: a_X is listed twice"),
        ("a_X,X\nd_X,X\n", r"1 clips are both in train\.csv and in test\.csv; the first: d_X"),
        ("b_Y,X\n", r"gives b_Y the class X, not Y"),
    ],
)
def test_errors_in_lists_name_the_line(published, text, complaint):
    folder, files = published
    (folder / "train.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        published_split(folder, files, {"b_Y": "Y"})


def test_an_unreadable_split_file_is_refused(published):
    folder, files = published
    (folder / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"train\.csv cannot be read"):
        published_split(folder, files, {})
