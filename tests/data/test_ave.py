import csv

import pytest
import raw_mp4
from mmpareto.data.ave import AVE, HEADER, read_lists
from mmpareto.data.loading.options import InputOptions
from mmpareto.errors import InputError

SPEECH = "Male speech, man speaking"
LISTS = {
    "trainSet.txt": [
        "Church bell&RUhOCu3LNXM&good&0&10",
        "Church bell&VWi2ENBuTbw&good&0&0",
        f"{SPEECH}&-hChcJAh5N0&good&5&10",
    ],
    "valSet.txt": [f"{SPEECH}&_p7OHdHpiM0&good&0&5", "Bark&-hChcJAh5N0&good&0&4"],
    "testSet.txt": ["Bark&3jS8tWfLJxI&good&7&9", "Church bell&RUhOCu3LNXM&good&2&3", "Bark&AAAAAAAAAAA&good&0&10"],
}
VIDEOS = ["RUhOCu3LNXM", "VWi2ENBuTbw", "-hChcJAh5N0", "_p7OHdHpiM0", "3jS8tWfLJxI"]


def write_lists(folder, lists=LISTS, header=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        (folder / name).write_text("\n".join([HEADER, *lines] if header else lines) + "\n")


@pytest.fixture
def raw(tmp_path):
    raw_mp4.write_mp4s([tmp_path / "AVE_Dataset" / "AVE" / f"{video}.mp4" for video in VIDEOS])
    write_lists(tmp_path / "AVE_Dataset")
    return tmp_path / "AVE_Dataset"


def test_from_raw_files_to_samples(raw, tmp_path):
    raw_mp4.write_mp4(raw / "AVE" / "BBBBBBBBBBB.mp4")
    (raw / "AVE" / "notes.mp4").write_bytes(b"")
    out = tmp_path / "out"
    report = AVE.prepare(raw=raw, out=out, workers=1)
    rows = {part: [*csv.reader((out / f"{part}.csv").open())] for part in ("stat", "train", "valid", "test")}
    assert rows == {
        "stat": [["Bark"], ["Church bell"], [SPEECH]],
        "train": [["RUhOCu3LNXM", "Church bell"], ["VWi2ENBuTbw", "Church bell"], ["-hChcJAh5N0", SPEECH]],
        "valid": [["_p7OHdHpiM0", SPEECH], ["-hChcJAh5N0.2", "Bark"]],
        "test": [["3jS8tWfLJxI", "Bark"], ["RUhOCu3LNXM.2", "Church bell"]],
    }
    assert report.prepared == 7 and report.outside == 1 and report.found == 9
    assert report.missing == ["AAAAAAAAAAA"] and [*report.skipped] == ["name not of the form"]
    assert "8 events, 3 classes, but the published lists have 4143 and 28" in report.text()
    assert (
        "2 videos have several events, each of which is a sample; those of 2 videos are in more than one list"
        in report.text()
    )

    for part, labels in (("train", [1, 1, 2]), ("valid", [2, 0]), ("test", [0, 1])):
        samples = AVE.open(out, part, training=False, options=InputOptions(image_size=16))
        assert [sample.label for sample in samples] == labels
    first, second = (AVE.open(out, part, training=False).sources["audio"] for part in ("train", "test"))
    assert first.read(0, None).equal(second.read(1, None))  # two events of the same video


def test_the_header_is_optional(tmp_path):
    write_lists(tmp_path / "plain")
    write_lists(tmp_path / "headed", header=True)
    assert read_lists(tmp_path / "plain")[0] == read_lists(tmp_path / "headed")[0]


def test_the_parent_folder_is_accepted(raw, tmp_path):
    assert AVE.prepare(raw=tmp_path, out=tmp_path / "out", workers=1).prepared == 7


@pytest.mark.parametrize(
    "line", ["Bark&3jS8tWfLJxI&good&7", "Bark&3jS8t&good&7&9", "&3jS8tWfLJxI&good&7&9", "Bark 3jS8tWfLJxI 7 9", HEADER]
)
def test_errors_in_lists_name_the_line(tmp_path, line):
    write_lists(tmp_path, LISTS | {"valSet.txt": ["Bark&3jS8tWfLJxI&good&7&9", "", line]})
    with pytest.raises(InputError, match=r"valSet\.txt, line 3: .* is not `Category&VideoID&Quality"):
        read_lists(tmp_path)


def test_missing_lists_or_videos_are_refused(raw, tmp_path):
    write_lists(raw, {name: ["Bark&CCCCCCCCCCC&good&0&1"] for name in LISTS})
    with pytest.raises(
        InputError,
        match=r"no clip that AVE's lists name: they list .*, and the clips found are .*; see https://github\.com/YapengTian",
    ):
        AVE.prepare(raw=raw, out=tmp_path / "out", workers=1)
    (raw / "valSet.txt").unlink()
    with pytest.raises(InputError, match=r"does not have trainSet\.txt, valSet\.txt and testSet\.txt; see https://"):
        AVE.prepare(raw=raw, out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
