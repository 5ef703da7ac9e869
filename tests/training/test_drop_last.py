"""--drop_last compared with PyTorch's DataLoader, in training, evaluation, resumption and what is reported."""

import json
from pathlib import Path

import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.data.loading.batches import Batch
from mmpareto.errors import InputError
from mmpareto.training.loop import Trainer
from prepared_clips import open_clips, write_prepared
from tiny_runs import acting, assert_same_run, metrics, read, resume, run, send_signal, trainer_of
from torch.utils.data import DataLoader

TRAIN, TEST, BATCH = 18, 7, 4  # whole batches: 16 and 4 clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=TRAIN, test=TEST, prepared={})


@pytest.mark.parametrize("drop_last", ["none", "train", "all"])
def test_batches_are_those_of_pytorchs_loader(
    drop_last: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    step = Trainer.step

    def recorded(trainer: Trainer, batch: Batch, samples: int | None = None) -> dict[str, torch.Tensor]:
        seen.append(batch.indices.tolist())
        return step(trainer, batch, samples)

    monkeypatch.setattr(Trainer, "step", recorded)
    trainer = trainer_of(data, tmp_path, "--protocol", "paper", "--drop_last", drop_last)
    trainer.fit()
    expected = []
    for epoch in (1, 2):
        trainer.order.set_epoch(epoch)
        trainer.order.used = TRAIN  # the whole permutation
        indices = [index for _, index in trainer.order]
        loader: DataLoader[int] = DataLoader(indices, batch_size=BATCH, drop_last=drop_last != "none")  # type: ignore[arg-type]
        expected += [batch.tolist() for batch in loader]
    assert seen == expected and len(seen) == (10 if drop_last == "none" else 8)
    if drop_last != "none":
        first, second = ({index for batch in epoch for index in batch} for epoch in (seen[:4], seen[4:]))
        assert len(first) == len(second) == 16 and first != second  # epochs drop different clips


@pytest.mark.parametrize(("drop_last", "count"), [("train", 7), ("all", 4)])
def test_evaluation_is_of_the_first_clips_of_the_file(drop_last: str, count: int, data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, "--protocol", "paper", "--epochs", 1, "--drop_last", drop_last)
    (line,) = trainer.fit()
    clips = open_clips(data, "test", training=False, frames=1, image_size=24, audio_frames=64)
    assert trainer.data.test.names == clips.names[:count]
    predictions = trainer.predict(trainer.data.test)
    assert predictions.labels.tolist() == clips.labels[:count]
    right = predictions.outputs.joint.argmax(1) == torch.tensor(clips.labels[:count])
    assert line["acc"] == pytest.approx(right.double().mean().item())


def test_counts_are_recorded_and_printed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--protocol", "validation", "--val_fraction", "0.3", "--epochs", 1, "--drop_last", "all")
    assert run(data, tmp_path / "run", *more) == 0
    record = json.loads((tmp_path / "run/config.json").read_text())["data"]
    assert record["clips"] == {"train": 12, "val": 4, "test": 4}
    assert record["available"] == {"train": 12, "val": 6, "test": 7}
    printed = capsys.readouterr().out
    assert "12 train, 4 of 6 val, 4 of 7 test samples" in printed and "4 of its 7 clips" in printed


@pytest.mark.parametrize("call", [2, 4])
def test_a_run_resumes_bit_identically(call: int, data: Path, tmp_path: Path) -> None:
    more = ("--protocol", "paper", "--epochs", 2, "--drop_last", "all")
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(loop.Trainer, "step", call, send_signal):  # in the middle, and after the last step of an epoch
        assert run(data, tmp_path / "run", *more) == 143
    assert read(tmp_path / "run/last.pt")["steps"] == call
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--drop_last all --batch_size 8", "drops all 7 test clips.*--batch_size 8.*--drop_last train"),
        ("--drop_last train --batch_size 19", "drops all 18 train clips.*--batch_size 19.*--drop_last none"),
        ("--drop_last all --protocol validation", "drops all 3 val clips"),
    ],
)
def test_a_part_smaller_than_a_batch_is_refused(more: str, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(data, tmp_path / "run", "--protocol", "paper", *more.split())
    assert not (tmp_path / "run").exists()


def test_the_linear_probe_is_fitted_to_all_training_clips(data: Path, tmp_path: Path) -> None:
    more = ("--protocol", "paper", "--epochs", 1, "--method", "joint", "--drop_last", "all")
    trainer = trainer_of(data, tmp_path, *more)
    assert (len(trainer.data.train_fixed), len(trainer.data.test)) == (TRAIN, 4)
    assert run(data, tmp_path / "run", *more) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (4 * summary["last"]["acc_audio"]).is_integer()
