import numpy as np
import pytest
import torch
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.loading.sources import FlowSource
from mmpareto.errors import InputError
from PIL import Image

COUNT, HEIGHT, WIDTH = 8, 40, 60


@pytest.fixture
def folder(tmp_path):
    """Frame n of the clip: u is 10·n all over, v is 100 + n on the left and 200 on the right."""
    for number in range(1, COUNT + 1):
        v = np.full((HEIGHT, WIDTH), 200, np.uint8)
        v[:, : WIDTH // 2] = 100 + number
        for part, values in (("flow_u", np.full((HEIGHT, WIDTH), 10 * number, np.uint8)), ("flow_v", v)):
            path = tmp_path / part / "clip" / f"frame_{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path, quality=100)
    return tmp_path


def test_evaluation_reads_the_fixed_frames_whole(folder):
    found = FlowSource(folder, ["clip"], InputOptions(frames=2, image_size=20)).read(0, None)
    assert found.dtype == torch.uint8 and found.shape == (2, 2, 20, 20)
    # The middle of each of two segments of four: frames 2 and 6, from 0 and counted as the released code does.
    assert [int(value) for value in found[:, 0].float().mean((1, 2))] == [20, 60]
    assert abs(int(found[0, 1, 5, 2]) - 102) <= 1 and abs(int(found[0, 1, 5, 17]) - 200) <= 1


def test_training_draws_a_frame_of_each_segment_and_a_crop(folder):
    source = FlowSource(folder, ["clip"], InputOptions(frames=2, image_size=20, crop_scale=(0.05, 0.2)))
    seen, whole = set(), 0
    for seed in range(40):
        found = source.read(0, np.random.default_rng(seed))
        assert found.shape == (2, 2, 20, 20)
        first, second = (round(float(value) / 10) for value in found[:, 0].float().mean((1, 2)))
        assert 1 <= first <= 4 < second <= 8
        seen |= {first, second}
        whole += bool(found[0, 1].max() - found[0, 1].min() > 50)  # both halves are in it
    assert seen == set(range(1, 9))
    assert whole < 30  # a crop of a fifth and less of the area often misses one half
    assert source.read(0, np.random.default_rng(3)).equal(source.read(0, np.random.default_rng(3)))


def test_u_and_v_are_cropped_alike(folder):
    """Where both are the same picture, so are their crops."""
    for number in range(1, COUNT + 1):
        name = f"clip/frame_{number:05d}.jpg"
        (folder / "flow_u" / name).write_bytes((folder / "flow_v" / name).read_bytes())
    found = FlowSource(folder, ["clip"], InputOptions(image_size=20)).read(0, np.random.default_rng(0))
    assert found[:, 0].equal(found[:, 1])


def test_a_mirrored_flow_points_the_other_way(folder):
    """On the device: u becomes 255 − u, v is only mirrored."""
    source = FlowSource(folder, ["clip"], InputOptions(frames=2, image_size=20))
    values = source.read(0, None)
    assert source.normalisation is not None and source.mirrors and source.channels == 2
    batch = Batch({"flow": values[None]}, torch.zeros(1), torch.zeros(1), {"flow": torch.tensor([[True, False]])})
    found = to_device(batch, "cpu", {"flow": source.normalisation}).inputs["flow"][0]
    mirrored = values[0].flip(-1).float()
    mirrored[0] = 255 - mirrored[0]
    expected = (torch.stack([mirrored, values[1].float()]) / 255 - 0.5) / 0.226
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_is_missing_or_damaged_is_named(folder):
    source = FlowSource(folder, ["clip", "none"], InputOptions(frames=2, image_size=20))
    with pytest.raises(InputError, match=r"flow_u/none has no frame; delete the folder and prepare again"):
        source.read(1, None)
    path = folder / "flow_v" / "clip" / "frame_00002.jpg"
    Image.new("L", (8, 8)).save(path)
    with pytest.raises(InputError, match=r"frame_00002\.jpg and .*frame_00002\.jpg differ in size"):
        source.read(0, None)
    path.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"flow_v/clip/frame_00002\.jpg is not a readable image; delete its folder"):
        source.read(0, None)
    path.unlink()
    with pytest.raises(InputError, match=r"flow_v/clip/frame_00002\.jpg is missing"):
        source.read(0, None)
