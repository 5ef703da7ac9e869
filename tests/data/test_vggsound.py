import csv

import prepare
import pytest
import raw_mp4
from hypothesis import given
from hypothesis import strategies as st
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.vggsound import VGGSound, clip_in, read_list
from mmpareto.errors import InputError

HORN = "vehicle horn, car horn, honking"
LIST = f"""---g-f_I2yQ,1,people marching,test
--0PQM4-hqg,30,waterfall burbling,train
--56QUhyDQM,185,"{HORN}",train
_0123456789,0,"{HORN}",test
AAAAAAAAAA_,7,people marching,train
"""
RAW = [
    "test/---g-f_I2yQ_000001.mp4",
    "train/--0PQM4-hqg_30000_40000.mp4",
    "train/deeper/--56QUhyDQM_185.mp4",
    "_0123456789_000000_000010.mp4",
]


@pytest.fixture
def raw(tmp_path):
    raw_mp4.write_mp4s([tmp_path / "raw" / name for name in RAW])
    (tmp_path / "raw" / "vggsound.csv").write_text(LIST)
    return tmp_path / "raw"


@given(video=st.text("ABCxyz019-_", min_size=11, max_size=11), start=st.integers(0, 99_999))
def test_all_ways_to_write_a_clip_are_one(video, start):
    written = [
        str(start),
        f"{start:06d}",
        f"{start:06d}_{start + 10:06d}",
        f"{start}_{start + 10}",
        f"{1000 * start}_{1000 * (start + 10)}",
    ]
    assert {clip_in(f"{video}_{form}") for form in written} == {(video, start)}


@pytest.mark.parametrize(
    "name", ["---g-f_I2yQ", "-g-f_I2yQ_1", "---g-f_I2yQ_1_12", "---g-f_I2yQ_1500_11500", "---g-f_I2yQ_1_"]
)
def test_names_that_are_no_clip(name):
    assert clip_in(name) is None


def test_absent_clips_alone_exit_with_0(raw, tmp_path, capsys):
    arguments = ["vggsound", "--raw", str(raw), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert prepare.main(arguments) == 0
    assert "skipped          0\nabsent           1 of 5 listed clips\n" in capsys.readouterr().out
    (raw / "AAAAAAAAAA__7.mp4").write_bytes(b"")  # no longer absent, but damaged
    assert prepare.main(arguments) == 1
    text = capsys.readouterr().out
    assert "skipped          1\n" in text and "listed clips" not in text


def test_from_raw_files_to_samples(raw, tmp_path):
    raw_mp4.write_mp4(raw / "BBBBBBBBBBB_000003.mp4")
    (raw / "--0PQM4-hqg.mp4").write_bytes(b"")
    out = tmp_path / "out"
    report = VGGSound.prepare(raw=raw, out=out, workers=1)
    assert report.prepared == 4 and report.outside == 1 and report.found == 6
    assert report.missing == ["AAAAAAAAAA__000007"]
    assert [*report.skipped["name not of the form"]] == [str(raw / "--0PQM4-hqg.mp4")]
    assert "3 classes, but the whole list has 309" in report.text() and not report.split.official

    # As the released loaders read them: a label with commas is one cell.
    rows = {part: [*csv.reader((out / f"{part}.csv").open())] for part in ("stat", "train", "test")}
    assert rows["stat"] == [["people marching"], [HORN], ["waterfall burbling"]]
    assert rows["train"] == [["--0PQM4-hqg_000030", "waterfall burbling"], ["--56QUhyDQM_000185", HORN]]
    assert rows["test"] == [["---g-f_I2yQ_000001", "people marching"], ["_0123456789_000000", HORN]]
    samples = VGGSound.open(out, "test", training=False, options=InputOptions(image_size=16))
    assert [samples.classes[sample.label] for sample in samples] == ["people marching", HORN]


def test_the_list_may_be_in_another_folder(raw, tmp_path):
    (tmp_path / "list").mkdir()
    (raw / "vggsound.csv").rename(tmp_path / "list" / "vggsound.csv")
    with pytest.raises(InputError, match=r"raw does not have vggsound\.csv.*https://www\.robots"):
        VGGSound.prepare(raw=raw, out=tmp_path / "out", workers=1)
    assert VGGSound.prepare(raw=raw, out=tmp_path / "out", split_files=tmp_path / "list", workers=1).prepared == 4


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("CCCCCCCCCCC,5,bark", r"vggsound\.csv, line 6: 'CCCCCCCCCCC,5,bark' is not"),
        ("CCCCCCCCCCC,5,a, b,train", r"line 6: 'CCCCCCCCCCC,5,a,b,train' is not"),
        ("CCCC,5,bark,train", r"line 6: 'CCCC,5,bark,train' is not"),
        ("CCCCCCCCCCC,five,bark,train", r"line 6: .* is not `YouTube id,start seconds"),
        ("CCCCCCCCCCC,5,,train", r"line 6: .* is not `YouTube id,start seconds"),
        ("CCCCCCCCCCC,5,bark,val", r"line 6: the last entry is 'val', not train or test"),
        ("--0PQM4-hqg,30,bark,train", r"line 6: --0PQM4-hqg_000030 was 'waterfall burbling' in train further up"),
        ("--0PQM4-hqg,30,waterfall burbling,test", r"line 6: --0PQM4-hqg_000030 was 'waterfall burbling' in train"),
        ('"CCCC', r"vggsound\.csv is not a CSV file"),
    ],
)
def test_errors_in_lists_name_the_line(tmp_path, line, complaint):
    (tmp_path / "vggsound.csv").write_text(LIST + line + "\n")
    with pytest.raises(InputError, match=complaint):
        read_list(tmp_path)


def test_a_repeated_line_counts_once(tmp_path):
    (tmp_path / "vggsound.csv").write_text(LIST + LIST)
    labels, split = read_list(tmp_path)
    assert len(labels) == 5 and len(split.train) == 3 and len(split.test) == 2


def test_a_folder_without_listed_clips_is_refused(raw, tmp_path):
    (raw / "vggsound.csv").write_text("CCCCCCCCCCC,5,bark,train\n")
    with pytest.raises(InputError, match=r"no clip that VGGSound's lists name: they list .*, and the clips found are "):
        VGGSound.prepare(raw=raw, out=tmp_path / "out", workers=1)
