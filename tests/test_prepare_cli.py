import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import prepare
import pytest
import raw_clips
import torch
from mmpareto import cli
from mmpareto.errors import InputError
from PIL import Image

SCRIPT = Path(prepare.__file__)
NAMES = raw_clips.names(actors=2)


@pytest.fixture
def raw(tmp_path):
    raw_clips.write_clips(tmp_path / "my raw clips", NAMES)
    return tmp_path / "my raw clips"


def run(raw, out, *more):
    return prepare.main(["cremad", "--raw", str(raw), "--out", str(out), "--workers", "1", *more])


def test_prepares_a_whole_data_set(raw, tmp_path, capsys):
    out = tmp_path / "pre pared"
    assert run(raw, out, "--audio", "both", "--fps", "3") == 0
    text = capsys.readouterr().out
    assert re.search(r"clips found +24\nprepared now +24 \(in .* per second\)\nprepared before +0\nskipped +0\n", text)
    assert "random stratified 90/10 split with seed 0, not the official one" in text
    assert re.search(r"class +train +test\nANG +3 +1\n", text) and re.search(r"all +18 +6", text)
    assert len(list((out / "audio_spectrogram").iterdir())) == len(list((out / "audio").iterdir())) == 24
    assert len(list((out / "visual" / NAMES[0]).iterdir())) == 4  # of 33 frames: 0, 9, 18 and 29

    assert run(raw, out, "--audio", "both", "--fps", "3", "--split", "speaker") == 0
    text = capsys.readouterr().out
    assert re.search(r"prepared now +0 .*\nprepared before +24", text) and "speaker-disjoint split" in text


def test_several_audio_files_are_prepared_checked_and_drawn(raw, tmp_path, capsys):
    out = tmp_path / "cremad"
    assert run(raw, out, "--audio", "waveform") == 0
    assert run(raw, out, "--audio", "spectrogram", "waveform") == 0
    assert json.loads((out / "prepared.json").read_text())["audio"] == ["spectrogram", "waveform"]
    path = out / "audio_waveform" / f"{NAMES[0]}.pt"
    samples = raw_clips.read_wav(raw / "AudioWAV" / f"{NAMES[0]}.wav")[0][0]
    waveform = torch.load(path, weights_only=True)
    assert waveform.dtype == torch.int16 and waveform.tolist() == samples.tolist()

    capsys.readouterr()
    assert prepare.main(["cremad", "--out", str(out), "--check", "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "wrong            0" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").width == 1200
    torch.save(waveform.float(), path)
    assert prepare.main(["cremad", "--out", str(out), "--check"]) == 1
    text = capsys.readouterr().out
    assert f"{path} contains torch.float32 ({len(samples)},) instead of an int16 tensor (samples,)" in text
    assert f"audio_waveform/{NAMES[0]}.pt has changed" in text


def test_skipped_clips_exit_with_1_unless_missing_is_allowed(raw, tmp_path, capsys):
    raw_clips.cut(raw / "AudioWAV" / f"{NAMES[0]}.wav", 0.6)
    (raw / "VideoFlash" / f"{NAMES[1]}.flv").unlink()
    (raw / "AudioWAV" / "stray name.wav").write_bytes(b"")
    assert run(raw, tmp_path / "out") == 1
    text = capsys.readouterr().out
    for line in (
        "skipped          3",
        "  name not of the form: 1\n    stray name: is not <actor",
        f"  no video file: 1\n    {NAMES[1]}: VideoFlash/{NAMES[1]}.flv does not exist",
        f"  unreadable file: 1\n    {NAMES[0]}: {raw}/AudioWAV/{NAMES[0]}.wav is cut short",
    ):
        assert line in text
    assert run(raw, tmp_path / "out", "--allow_missing") == 0


def test_missing_clips_of_the_split_exit_with_1(raw, tmp_path, capsys):
    for part, names in (("train", [*NAMES[1:], "1091_WSI_SAD_XX"]), ("test", NAMES[:1])):
        (tmp_path / f"{part}.csv").write_text("".join(f"{name},{name.split('_')[2]}\n" for name in names))
    files = ("--split_files", str(tmp_path))
    assert run(raw, tmp_path / "out", *files) == 1
    text = capsys.readouterr().out
    assert "skipped          0\nabsent           1 of 25 listed clips\n" in text
    assert "not among the raw files: 1\n    1091_WSI_SAD_XX" in text
    assert text.count("not the official one (") == 2 and "7b95d291b847eac9" in text
    assert run(raw, tmp_path / "out", *files, "--allow-missing") == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["crema"], "unknown data set 'crema'. Did you mean 'cremad'"),
        (["cremad", "--raw", "absent"], "absent does not exist; get CREMA-D from https://github.com/"),
        (["cremad", "--raw", "RAW", "--fps", "0"], "--fps must be at least 1, not 0"),
        (["cremad", "--raw", "RAW", "--split_files", "absent"], "absent does not contain train.csv and test.csv"),
    ],
)
def test_bad_input_raises_one_sentence(raw, tmp_path, arguments, complaint):
    arguments = [str(raw) if argument == "RAW" else argument for argument in arguments]
    if arguments[0] == "cremad":
        arguments += ["--out", str(tmp_path / "out")]
    with pytest.raises(InputError) as caught:
        prepare.main(arguments)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [[], ["--raw", "x"], ["cremad"], ["cremad", "--raw", "x", "--audio", "mfcc"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["cremad", "--help"]])
def test_help_does_not_import_torch(arguments):
    code = (
        "import sys, prepare\n"
        f"try: prepare.main({arguments})\n"
        "except SystemExit as leaving: print(leaving.code, [m for m in ('torch', 'av') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "0 []" and "cremad" in result.stdout
    assert not re.search(r"--\w+-\w", result.stdout)  # flags are shown with underscores


def exit_of(outcome, capsys):
    """Exit status and standard error of an entry point that raises or returns `outcome`."""

    def main(argv):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    return caught.value.code, capsys.readouterr().err


def test_exit_codes_of_entry_points(capsys):
    assert exit_of(0, capsys) == (0, "")
    assert exit_of(1, capsys) == (1, "")
    assert exit_of(InputError("no such place."), capsys) == (2, "error: no such place.\n")
    assert exit_of(KeyboardInterrupt(), capsys) == (130, "interrupted\n")
    status, errors = exit_of(OSError(errno.ENOSPC, "No space left on device", "runs/x/last.pt"), capsys)
    assert status == 2 and errors.startswith("error: No space left on device (runs/x/last.pt): make room")
    for number, remedy in ((errno.EDQUOT, "quota"), (errno.EFBIG, "ulimit -f")):
        status, errors = exit_of(OSError(number, os.strerror(number)), capsys)
        assert status == 2 and remedy in errors and "--resume" in errors
    with pytest.raises(FileNotFoundError):
        exit_of(FileNotFoundError(errno.ENOENT, "no such file"), capsys)
    with pytest.raises(RuntimeError):  # a programming error keeps its traceback
        exit_of(RuntimeError(), capsys)


def descendants(pid: int) -> set[int]:
    """All descendants of the process `pid`."""
    result: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            for child in map(int, task.read_text().split()):
                result |= {child} | descendants(child)
    return result


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, "", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_leaves_no_process_and_can_be_resumed(tmp_path, sent, status, line):
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = raw_clips.names(actors=40, sentences=("IEO", "TIE", "IOM", "IWW"))
    raw_clips.write_clips(raw, names)
    command = [sys.executable, str(SCRIPT), "cremad", "--raw", str(raw), "--out", str(out), "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            wait_for(lambda: len(list((out / "visual").glob("[!.]*"))) > 10)
            started = descendants(process.pid)
            assert len(started) >= 3  # the server and two workers
            if sent == signal.SIGINT:
                os.killpg(process.pid, sent)  # as Ctrl-C in a terminal does
            else:
                process.send_signal(sent)
            assert process.wait(timeout=20) == status
            wait_for(lambda: not any(alive(pid) for pid in started))
            assert process.stderr is not None
            errors = process.stderr.read()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in errors
    assert errors.rstrip().endswith(line)
    done = [path.name for path in (out / "visual").glob("[!.]*")]
    assert 10 < len(done) < len(names)
    assert not (out / "prepared.json").exists() and not (out / "train.csv").exists()
    if sent != signal.SIGKILL:
        assert not list((out / "visual").glob(".*"))
    for name in done:
        assert len(list((out / "visual" / name).iterdir())) == 2  # of 33 frames: 0 and 29

    for name in names[40:]:  # keeps the second run short
        for folder, suffix in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
            (raw / folder / f"{name}.{suffix}").unlink()
    assert run(raw, out) == 0
    assert len((out / "train.csv").read_text().split()) + len((out / "test.csv").read_text().split()) == 40


def wait_for(condition, seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"the condition was not met within {seconds} seconds"
        time.sleep(0.02)
