"""What methods need of the loop besides losses: whole batches, passes with a graph, features of chosen samples."""

from pathlib import Path

import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.data.loading.batches import EpochOrder, make_loader, to_device
from mmpareto.errors import InputError
from mmpareto.training.checkpoints import load_checkpoint, network_of
from prepared_clips import write_prepared
from tiny_runs import acting, assert_same_run, metrics, resume, run, send_signal, trainer_of

AGM = ("--method", "agm", "--variant", "released", "--modulation_ends", "0", "--learning_rate", "0.01")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=14, test=4, prepared={})


def test_agm_as_released_is_resumed_bit_identically(data: Path, tmp_path: Path) -> None:
    """In epoch 2, with the coefficients kept of epoch 1."""
    more = (*AGM, "--protocol", "paper")
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(loop.Trainer, "step", 6, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    state = torch.load(tmp_path / "whole/last.pt", weights_only=True)["method_state"]
    assert not state["active"] and any(float(kappa) != 1 for kappa in state["kept"].values())


def test_a_method_that_needs_whole_batches_refuses_micro_batches_before_anything_is_written(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"--method agm .* whole batch at once: leave --accumulate out"):
        trainer_of(data, tmp_path / "run", *AGM, "--accumulate", "2")
    trainer_of(data, tmp_path / "other", *AGM[:2], "--accumulate", "2")  # the default variant does not
    assert not (tmp_path / "run").exists()


def test_opm_as_released_with_cosines_is_resumed_bit_identically(data: Path, tmp_path: Path) -> None:
    """Between the draws of two steps; the checkpoint has the scale of the cosines."""
    more = ("--method", "opm", "--variant", "released", "--modulation_starts", "0", "--protocol", "paper")
    more = (*more, "--learning_rate", "0.01", "--fusion", "cosine", "--cosine_scale", "15")
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(loop.Trainer, "step", 6, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    probabilities = [line[f"drop_probability_{m}"] for line in metrics(tmp_path / "run") for m in ("audio", "visual")]
    assert max(probabilities) > 0.1
    assert network_of(load_checkpoint(tmp_path / "run/best.pt"), "best.pt").fusion.scale == 15.0


def test_features_are_of_the_samples_that_are_asked_for(data: Path, tmp_path: Path) -> None:
    """Against the network applied to the data sets' own batches."""
    trainer = trainer_of(
        data, tmp_path / "run", "--method", "pmr", "--samples", "validation", "--crop_scale", "0.1", "0.2"
    )
    trainer.begin_epoch()
    sets = {"training": trainer.data.train_fixed, "augmented": trainer.data.train, "validation": trainer.data.val}
    found = {}
    for samples, dataset in sets.items():
        features, labels = [], []
        for batch, batch_labels in trainer.method_context.features(1.0, samples):
            features.append(batch["visual"])
            labels += batch_labels.tolist()
        found[samples] = torch.cat(features)
        assert sorted(labels) == sorted(dataset.labels)
        order = EpochOrder(len(dataset))
        order.set_epoch(1)
        (whole,) = make_loader(dataset, batch_size=len(dataset), order=order)
        batch = to_device(whole, "cpu", dataset.normalisation)
        trainer.network.eval()
        with torch.no_grad():
            expected = trainer.network(batch.inputs).features["visual"]
        trainer.network.train()
        assert torch.cdist(found[samples].double(), expected.double()).min(1).values.max() < 1e-5
    assert not torch.allclose(found["training"].sort(0).values, found["augmented"].sort(0).values)


def test_prototypes_of_a_validation_set_that_the_run_lacks_are_refused(data: Path, tmp_path: Path) -> None:
    more = ("--method", "pmr", "--samples", "validation", "--protocol", "paper")
    with pytest.raises(InputError, match="needs a validation set, and --protocol paper has none"):
        trainer_of(data, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()
