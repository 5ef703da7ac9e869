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
    """A clip whose frame n has u = 10·n everywhere, and v = 100 + n on the left and 200 on the right."""
    for number in range(1, COUNT + 1):
        v = np.full((HEIGHT, WIDTH), 200, np.uint8)
        v[:, : WIDTH // 2] = 100 + number
        for part, values in (("flow_u", np.full((HEIGHT, WIDTH), 10 * number, np.uint8)), ("flow_v", v)):
            path = tmp_path / part / "clip" / f"frame_{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path, quality=100)
    return tmp_path


def test_evaluation_reads_fixed_frames_uncropped(folder):
    result = FlowSource(folder, ["clip"], InputOptions(frames=2, image_size=20)).read(0, None)
    assert result.dtype == torch.uint8 and result.shape == (2, 2, 20, 20)
    # The middle frame of each of two segments of four, 2 and 6, counted as in the released code.
    assert [int(value) for value in result[:, 0].float().mean((1, 2))] == [20, 60]
    assert abs(int(result[0, 1, 5, 2]) - 102) <= 1 and abs(int(result[0, 1, 5, 17]) - 200) <= 1


def test_training_draws_one_frame_per_segment_and_a_crop(folder):
    source = FlowSource(folder, ["clip"], InputOptions(frames=2, image_size=20, crop_scale=(0.05, 0.2)))
    drawn, spanning = set(), 0
    for seed in range(40):
        result = source.read(0, np.random.default_rng(seed))
        assert result.shape == (2, 2, 20, 20)
        first, second = (round(float(value) / 10) for value in result[:, 0].float().mean((1, 2)))
        assert 1 <= first <= 4 < second <= 8
        drawn |= {first, second}
        spanning += bool(result[0, 1].max() - result[0, 1].min() > 50)  # the crop spans both halves
    assert drawn == set(range(1, 9))
    assert spanning < 30  # a crop of at most a fifth of the area often misses one half
    assert source.read(0, np.random.default_rng(3)).equal(source.read(0, np.random.default_rng(3)))


def test_u_and_v_are_cropped_alike(folder):
    """Equal pictures for u and v give equal crops."""
    for number in range(1, COUNT + 1):
        name = f"clip/frame_{number:05d}.jpg"
        (folder / "flow_u" / name).write_bytes((folder / "flow_v" / name).read_bytes())
    result = FlowSource(folder, ["clip"], InputOptions(image_size=20)).read(0, np.random.default_rng(0))
    assert result[:, 0].equal(result[:, 1])


def test_a_mirrored_flow_points_the_other_way(folder):
    """On the device, u becomes 255 − u; v is only mirrored."""
    source = FlowSource(folder, ["clip"], InputOptions(frames=2, image_size=20))
    values = source.read(0, None)
    assert source.normalisation is not None and source.mirrors and source.channels == 2
    batch = Batch({"flow": values[None]}, torch.zeros(1), torch.zeros(1), {"flow": torch.tensor([[True, False]])})
    result = to_device(batch, "cpu", {"flow": source.normalisation}).inputs["flow"][0]
    mirrored = values[0].flip(-1).float()
    mirrored[0] = 255 - mirrored[0]
    expected = (torch.stack([mirrored, values[1].float()]) / 255 - 0.5) / 0.226
    assert torch.allclose(result, expected, atol=1e-5)


def test_missing_or_damaged_frames_are_named(folder):
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
