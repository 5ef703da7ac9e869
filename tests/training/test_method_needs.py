"""What methods need of the loop besides losses: whole batches, features of chosen samples, trained networks."""

import copy
from pathlib import Path
from typing import Any

import mmpareto
import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.data.loading.batches import EpochOrder, make_loader, to_device
from mmpareto.errors import InputError
from mmpareto.training.checkpoints import load_checkpoint, network_of
from mmpareto.training.method_labels import label
from prepared_clips import write_prepared
from sklearn.cluster import KMeans
from tiny_runs import acting, assert_same_run, metrics, needed, resume, run, send_signal, trainer_of

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


@pytest.mark.parametrize("line", ["--method pmr --samples validation", "--method relearning"])
def test_a_validation_set_that_the_run_lacks_is_refused(line: str, data: Path, tmp_path: Path) -> None:
    more = (*line.split(), "--protocol", "paper")
    with pytest.raises(InputError, match="needs a validation set, and --protocol paper has none"):
        trainer_of(data, tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


# --- networks of earlier runs ---


@pytest.fixture(scope="module")
def teachers(data: Path) -> dict[str, Path]:
    """Modality → the folder of its teacher; "both" → that of an ensemble."""
    folders = {name: data.parent / name for name in ("audio", "visual")}
    for name, folder in folders.items():
        assert run(data, folder, "--method", "unimodal", "--modality", name, "--epochs", "1") == 0
    return folders | {"both": Path(needed("umt", data)[1])}


def test_two_runs_of_one_modality_each_are_the_teachers_of_a_step(
    data: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    """Frozen, in evaluation mode, and equal to the networks that `mmpareto.load` returns."""
    given = ("--teachers", str(teachers["visual"] / "last.pt"), str(teachers["audio"]))
    trainer = trainer_of(data, tmp_path / "run", "--method", "umt", *given)
    method, batch = trainer.method, next(iter(trainer._batches()))[0]
    trainer.begin_epoch()
    trainer.step(batch)
    for name, file in (("visual", teachers["visual"] / "last.pt"), ("audio", teachers["audio"])):
        alone = mmpareto.load(file).model
        with torch.no_grad():
            expected = alone({name: batch.inputs[name]}).features[name]
        torch.testing.assert_close(method._targets[name], expected, rtol=0, atol=0)
    for network in method._networks:
        assert not any(module.training for module in network.modules())
        assert all(not p.requires_grad and p.grad is None for p in network.parameters())
    assert trainer.settings.options["teachers"] == list(given[1:])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--teachers {audio}", "needs a teacher of visual: give --teachers the folders"),
        ("--teachers {both} {audio}", "audio has two teachers"),
        ("--teachers {both} --encoder plain", "size .* and this network 6"),
        ("--teachers {both} --image_size 20", "trained with --image_size 24, and this run has 20"),
        ("--teachers {audio}/nowhere", "there is no checkpoint"),
        ("--teachers {audio}/config.json", "not a readable checkpoint"),
    ],
)
def test_teachers_that_do_not_fit_are_refused_before_anything_is_written(
    words: str, match: str, data: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    line = words.format(**teachers).split()
    with pytest.raises(InputError, match=rf"^--method umt: .*{match}") as error:
        trainer_of(data, tmp_path / "run", "--method", "umt", *line)
    assert "\n" not in str(error.value) and ".." not in str(error.value).replace("/..", "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dataset": "ave"}, "was trained on ave, and this run is on cremad"),
        ({"data": {"classes": ["a", "b"]}}, "other classes"),
        ({"data": {"channels": {"visual": 4}}}, "other channels of visual than"),
        ({"data": {"normalisation": {}}}, "other normalisation of visual"),
    ],
)
def test_teachers_of_other_data_are_refused(
    change: dict[str, Any], match: str, data: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    content = torch.load(teachers["visual"] / "best.pt", weights_only=True)
    description = content["data"] | change.pop("data", {})
    torch.save(content | {"data": description} | change, tmp_path / "other.pt")
    given = ("--teachers", str(tmp_path / "other.pt"), str(teachers["audio"]))
    with pytest.raises(InputError, match=match):
        trainer_of(data, tmp_path / "run", "--method", "umt", *given)


def test_labels_leave_the_files_of_teachers_out() -> None:
    options = {"distillation_weight": 3.0, "teachers": ["runs/a-seed0", "runs/b-seed0"]}
    assert label("umt", None, options) == "UMT (distillation_weight 3)"


# --- clusters ---


def test_clusters_are_those_of_scikit_learn_by_the_run_s_seed(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "run", "--method", "relearning", "--random_seed", "3")
    features = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = trainer.method_context.cluster(features, 4)
    assert found.tolist() == KMeans(4, n_init=1, random_state=3).fit(features.numpy()).labels_.tolist()


def test_encoders_are_re_initialised_in_the_run_and_evaluated_after_it(data: Path, tmp_path: Path) -> None:
    """The third epoch starts from the weights of the second, moved back by a; until then, it is joint training."""
    states: dict[str, list[dict[str, torch.Tensor]]] = {}
    for method in ("joint", "relearning --reinit_epoch 1"):
        more = ("--method", *method.split(), "--epochs", "3", "--learning_rate", "0.1")
        trainer = trainer_of(data, tmp_path / method[:5], *more)
        initial = copy.deepcopy(trainer.network.state_dict())
        ends = states[method[:5]] = [initial]
        for epoch in (1, 2, 3):
            trainer._reset_epoch(epoch)
            trainer.begin_epoch()
            ends.append(copy.deepcopy(trainer.network.state_dict()))
            if epoch < 3:
                trainer._train_epoch()
                trainer._evaluate_epoch()
    parameters = [key for key, _ in trainer.network.named_parameters()]
    for joint, relearned in zip(states["joint"][:3], states["relea"][:3], strict=True):
        assert all(torch.equal(joint[key], relearned[key]) for key in parameters)
    first, _, _, before = states["joint"]
    after, moved = states["relea"][3], trainer.method.moved
    assert max(moved.values()) > 0
    for key in parameters:
        a = moved[key.split(".")[1]] if key.startswith("encoders.") else 0.0
        torch.testing.assert_close(after[key], a * first[key] + (1 - a) * before[key])
