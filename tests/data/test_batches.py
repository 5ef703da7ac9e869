import multiprocessing
import os

import pytest
import torch
from mmpareto.data.loading.batches import Batch, EpochOrder, make_loader, stop_workers, to_device
from mmpareto.data.loading.samples import PreparedDataset
from prepared_clips import open_clips, write_prepared


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = write_prepared(tmp_path_factory.mktemp("prepared"), train=11, test=3, frames=[4, 3, 2])
    return open_clips(folder, "train", training=True, image_size=16, audio_frames=8)


def test_every_epoch_has_its_own_permutation() -> None:
    order = EpochOrder(50, seed=3)
    orders = []
    for epoch in (0, 1, 2):
        order.set_epoch(epoch)
        keys = list(order)
        assert {key[0] for key in keys} == {epoch}
        assert sorted(index for _, index in keys) == list(range(50))
        assert list(order) == keys and all(type(index) is int for _, index in keys)
        orders.append(tuple(index for _, index in keys))
    assert len({*orders, tuple(range(50))}) == 4
    again = EpochOrder(50, seed=3)
    again.set_epoch(2)
    assert tuple(index for _, index in again) == orders[2]
    assert [index for _, index in EpochOrder(50, seed=4)] != list(orders[0])


def test_start_skips_the_first_samples() -> None:
    order = EpochOrder(10)
    order.set_epoch(4)
    whole = list(order)
    order.set_epoch(4, start=6)
    assert list(order) == whole[6:] and len(order) == 4
    order.set_epoch(4, start=10)
    assert list(order) == [] and len(order) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_or_interruptions(dataset: PreparedDataset, workers: int) -> None:
    order = EpochOrder(len(dataset), seed=1)
    loader = make_loader(dataset, batch_size=4, order=order, workers=workers)
    for epoch, start in [(0, 0), (1, 0), (5, 4)]:
        order.set_epoch(epoch, start)
        expected = [dataset[key] for key in order]
        batches = list(loader)
        assert len(batches) == len(loader) and all(isinstance(batch, Batch) for batch in batches)
        assert torch.cat([batch.indices for batch in batches]).tolist() == [sample.dataset_index for sample in expected]
        assert torch.cat([batch.labels for batch in batches]).tolist() == [sample.label for sample in expected]
        for name in ("audio", "visual"):
            values = torch.cat([batch.inputs[name] for batch in batches])
            flips = [batch.flips["visual"] for batch in batches]
            assert torch.equal(torch.cat(flips), torch.stack([sample.flips["visual"] for sample in expected]))
            assert torch.equal(values, torch.stack([sample.inputs[name] for sample in expected]))
        for batch in loader:  # leave an epoch early: prefetched batches must not reach the next one
            assert batch.indices.tolist() == [sample.dataset_index for sample in expected[:4]]
            break
    stop_workers(loader)


def test_workers_leave_the_process_group_and_stop_on_request(dataset: PreparedDataset) -> None:
    loader = make_loader(dataset, batch_size=2, order=EpochOrder(len(dataset)), workers=2)
    before = set(multiprocessing.active_children())
    expected = [batch.indices.tolist() for batch in loader]
    for _ in loader:
        break
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    assert all(os.getpgid(process.pid) == process.pid for process in started)
    stop_workers(loader)
    assert not any(process.is_alive() for process in started)
    assert [batch.indices.tolist() for batch in loader] == expected
    stop_workers(loader)
    assert set(multiprocessing.active_children()) == before
    stop_workers(loader)
    stop_workers(make_loader(dataset, batch_size=2))


def test_evaluation_keeps_the_order(dataset: PreparedDataset) -> None:
    indices = [index for batch in make_loader(dataset, batch_size=4) for index in batch.indices.tolist()]
    assert indices == list(range(11))


def test_only_uint8_inputs_are_normalised() -> None:
    images = torch.randint(0, 256, (2, 3, 3, 4, 5), dtype=torch.uint8)
    sound = torch.randn(2, 1, 8, 4)
    batch = Batch({"sound": sound, "sight": images}, torch.tensor([1, 0]), torch.tensor([7, 8]))
    mean, std = (0.5, 0.25, 0.125), (0.1, 0.2, 0.4)
    with torch.inference_mode():
        to_device(batch, "cpu", {"sight": (mean, std)})
    moved = to_device(batch, torch.device("cpu"), {"sight": (list(mean), list(std))})
    assert list(moved.inputs) == ["sound", "sight"] and torch.equal(moved.inputs["sound"], sound)
    assert moved.labels.tolist() == [1, 0] and moved.indices.tolist() == [7, 8]
    for channel in range(3):
        expected = (images[:, :, channel] / 255.0 - mean[channel]) / std[channel]
        torch.testing.assert_close(moved.inputs["sight"][:, :, channel], expected)
    assert moved.inputs["sight"].dtype == torch.float32 and not moved.inputs["sight"].is_inference()
