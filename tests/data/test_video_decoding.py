"""Decoding of the kept frames only, compared with decoding the whole video in PyAV."""

import av
import numpy as np
import pytest
import raw_clips
from mmpareto.data.raw.media import read_frame_pairs
from mmpareto.data.raw.video_decoding import _SparseDecoder

H264 = {
    "no B-frames": {"bf": "0", "g": "12"},
    "reference B-frames": {"bf": "8", "g": "250", "x264-params": "b-pyramid=normal:b-adapt=0"},
    "short groups": {"bf": "3", "g": "7", "refs": "6"},
    "open groups": {"bf": "3", "g": "12", "x264-params": "open-gop=1"},
    "intra refresh instead of key frames": {"bf": "0", "g": "20", "x264-params": "intra-refresh=1"},
}


@pytest.fixture(scope="module")
def scene():
    """75 noisy moving images, so that every frame differs from all others and refers to others."""
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return [np.roll(still, (3 * i, 2 * i), (0, 1)) // 2 + np.uint8(i) for i in range(75)]


def write(path, scene, codec, options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for image in scene:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def decode_all(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        *((f"{kind}.{suffix}", "libx264", options) for kind, options in H264.items() for suffix in ("mp4", "mkv")),
        ("a.flv", "flv", {"g": "5"}),
        ("b.flv", "flv", {"g": "100"}),
        ("a.mp4", "mpeg4", {"bf": "2", "g": "9"}),
        ("a.avi", "mpeg4", {"g": "9"}),
        ("a.webm", "libvpx", {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    ],
)
def test_kept_frames_equal_a_full_decoding_bit_for_bit(tmp_path, scene, name, codec, options):
    path = tmp_path / name
    write(path, scene, codec, options)
    all_frames = decode_all(path)
    assert len(all_frames) == 75
    for fps in (1, 4, 25):
        frames = raw_clips.read_frames(path, fps)
        step = 25 // fps
        expected = [all_frames[i] for i in range(75) if i % 25 % step == 0 and i % 25 < step * fps]
        np.testing.assert_array_equal(frames, expected)


def test_pairs_are_consecutive_frames_of_a_full_decoding(tmp_path, scene):
    for name, codec in (("a.mp4", "libx264"), ("a.flv", "flv"), ("a.avi", "mpeg4")):
        write(tmp_path / name, scene[:51], codec, {"g": "10"})
        all_frames = decode_all(tmp_path / name)
        pairs = list(read_frame_pairs(tmp_path / name, 2))
        assert [pair.number for pair in pairs] == [0, 12, 25, 37]  # nothing follows frame 50
        for number, first, second in pairs:
            np.testing.assert_array_equal(first, all_frames[number])
            np.testing.assert_array_equal(second, all_frames[number + 1])


@pytest.mark.parametrize(("options", "needed"), [({"g": "1"}, 3), ({"g": "25"}, 3), ({"g": "250", "bf": "0"}, 51)])
def test_unneeded_frames_are_not_decoded(tmp_path, scene, monkeypatch, options, needed):
    """Frames 0, 25 and 50 of 75 are kept."""
    write(tmp_path / "a.mp4", scene, "libx264", options)
    decoded = []
    decode = _SparseDecoder._decode

    def counting(self, tick, packet):
        decoded.append(tick)
        decode(self, tick, packet)

    monkeypatch.setattr(_SparseDecoder, "_decode", counting)
    assert len(raw_clips.read_frames(tmp_path / "a.mp4", 1)) == 3
    assert len(decoded) == needed


@pytest.mark.parametrize(
    ("matrix", "quarter_turns"), [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_images_are_upright(tmp_path, scene, matrix, quarter_turns):
    """ISO/IEC 14496-12, 8.3.2: (0, 1, −1, 0) shows the right edge at the bottom, a quarter turn clockwise."""
    path = tmp_path / "a.mp4"
    write(path, scene[:30], "libx264", {})
    raw_clips.set_display_matrix(path, *matrix)
    frame = raw_clips.read_frames(path, 1)[1]
    np.testing.assert_array_equal(frame, np.rot90(decode_all(path)[25], quarter_turns))
    assert frame.flags.c_contiguous
