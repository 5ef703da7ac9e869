"""Every method in the training loop: complete and resumed runs, and the parts that each leaves untrained."""

import json
from collections.abc import Callable
from pathlib import Path

import mmpareto.training.loop as loop
import numpy as np
import pytest
import torch
from mmpareto import METHODS
from mmpareto.errors import InputError
from prepared_clips import write_prepared
from tiny_runs import acting, assert_same_run, metrics, needed, resume, run, send_signal, trainer_of

OPTIONS = {  # so that two short epochs cover what a method changes over time
    "unimodal": ("--modality", "visual"),
    "pretrain_finetune": ("--pretrain_epochs", "1"),
    "gblending": ("--trial_epochs", "1"),
    "agm": ("--alpha", "1"),
    "smv": ("--warmup", "1"),
    "inforeg": ("--variant", "released"),
    "relearning": ("--reinit_epoch", "1", "--epochs", "3", "--protocol", "validation"),  # it acts before the third
    "reconboost": ("--boost_epochs", "1", "--rectify_epochs", "1"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=14, test=4, prepared={})


def flags(name: str, data: Path) -> tuple[str, ...]:
    return ("--method", name, "--learning_rate", "0.01", *OPTIONS.get(name, ()), *needed(name, data))


@pytest.mark.parametrize(
    ("name", "protocol"),
    [*((name, "validation") for name in METHODS), ("gblending", "paper"), ("mmpareto", "paper")],  # the methods that
)  # train alike with and without a validation set need no second run
def test_resume_continues_bit_identically(
    name: str, protocol: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 11 or 14 clips in batches of 4: stopped within epoch 2, and in its evaluation."""
    more = (*flags(name, data), "--protocol", protocol)
    assert run(data, tmp_path / "whole", *more) == 0
    assert name in capsys.readouterr().out
    assert_complete(tmp_path / "whole", ["visual"] if name == "unimodal" else ["audio", "visual"])
    with acting(loop.Trainer, "step", 5, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    with acting(loop, "predict", 1, send_signal, before=True):
        assert resume(tmp_path / "run") == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def assert_complete(folder: Path, modalities: list[str]) -> None:
    """Check that every epoch has its accuracies, and the summary those of every modality."""
    for line in metrics(folder):
        assert all(0 <= line[key] <= 1 for key in line if key in ("acc", "train_acc", "val_acc"))
        assert {key for key in line if key.startswith("acc_")} == {f"acc_{m}" for m in modalities}
    summary = json.loads((folder / "summary.json").read_text())
    for modality in modalities:  # from trained heads, the shared fusion, or a linear probe
        assert 0 <= summary["last"][f"acc_{modality}"] <= 1


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key.split(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}


@pytest.mark.parametrize(
    ("name", "compiled"),
    # Compiled: the method that leaves most untrained. Others: test_switches.py.
    [*((name, False) for name in METHODS), ("joint", True)],
)
def test_untrained_parameters_do_not_decay(name: str, compiled: bool, data: Path, tmp_path: Path) -> None:
    """A compiled model gives unreached parameters zero gradients, not None: weight decay would act on them."""
    trainer = trainer_of(data, tmp_path / "run", "--weight_decay", "0.5", "--protocol", "paper", *flags(name, data))
    if compiled:
        torch._dynamo.reset()
        trainer.model = torch.compile(trainer.network, backend="aot_eager")
    parameters = dict(trainer.network.named_parameters())
    before = {key: p.detach().clone() for key, p in parameters.items()}
    with torch._functorch.config.patch(donated_buffer=False):  # as in the README
        trainer._train_epoch()
    parts = {"encoders", "fusion"} | ({"blocks"} if name == "greedy" else set())
    if not trainer.network.heads:
        expected = parts
    else:
        expected = parts | {"heads"} if trainer.method.descends_unimodal else parts
        expected -= set() if trainer.method.descends_joint else {"fusion"}
    assert moved(before, {key: p.detach() for key, p in parameters.items()}) == expected


def test_pretraining_switches_to_the_joint_loss(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "run", *flags("pretrain_finetune", data))
    snapshots = []
    evaluate: Callable[..., dict[str, object]] = trainer._evaluate_epoch

    def watched() -> dict[str, object]:
        snapshots.append({key: p.detach().clone() for key, p in trainer.network.named_parameters()})
        return evaluate()

    trainer._evaluate_epoch = watched  # type: ignore[method-assign]
    history = trainer.fit()
    assert moved(snapshots[0], snapshots[1]) == {"encoders", "fusion"}
    assert [line["acc_audio"] is None for line in history] == [False, True]


def test_frozen_encoders_do_not_change_in_fine_tuning(data: Path, tmp_path: Path) -> None:
    """Neither by the optimizer (weight decay, momentum) nor BatchNorm's statistics; resumed in mid-epoch as well."""
    more = (
        *flags("pretrain_finetune", data),
        "--freeze_encoders",
        "true",
        "--protocol",
        "paper",
        "--weight_decay",
        "0.1",
    )
    more = (*more, "--record_gradients", "1")
    with acting(loop.Trainer, "step", 6, send_signal):  # 4 steps per epoch
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert run(data, tmp_path / "whole", *more) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    trainer = trainer_of(data, tmp_path / "again", *more)
    states = []
    for epoch in (1, 2):
        trainer._reset_epoch(epoch)
        trainer._train_epoch()
        trainer._evaluate_epoch()
        states.append({key: value.clone() for key, value in trainer.network.state_dict().items()})
    assert moved(*states) == {"fusion"}
    with np.load(tmp_path / "whole/gradients.npz") as recorded:
        assert recorded["step"].tolist() == [1, 2, 3, 4]


def test_an_ensemble_is_its_modalities_trained_alone(data: Path, tmp_path: Path) -> None:
    more = ("--protocol", "paper", "--learning_rate", "0.05", "--weight_decay", "0.1")
    ensemble = trainer_of(data, tmp_path / "both", *more, "--method", "ensemble")
    networks = {}
    for name in ensemble.network.modalities:
        alone = trainer_of(data, tmp_path / name, *more, "--method", "unimodal", "--modality", name)
        alone.network.encoders[name].load_state_dict(ensemble.network.encoders[name].state_dict())
        alone.network.fusion.fc_out.load_state_dict(ensemble.network.fusion.fc[name].state_dict())
        networks[name] = alone.network
        alone._train_epoch()
    ensemble._train_epoch()
    predictions = ensemble.predict(ensemble.data.test).outputs
    for name, network in networks.items():
        torch.testing.assert_close(
            ensemble.network.encoders[name].state_dict(), network.encoders[name].state_dict(), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            ensemble.network.fusion.fc[name].state_dict(), network.fusion.fc_out.state_dict(), rtol=1e-5, atol=1e-6
        )
    mean = torch.stack([logits.softmax(1) for logits in predictions.unimodal.values()]).mean(0)
    torch.testing.assert_close(predictions.joint.softmax(1), mean)


def test_unimodal_training_reads_and_builds_one_modality(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "run", *flags("unimodal", data))
    assert trainer.network.modalities == ["visual"]
    batch, _ = next(iter(trainer._batches()))
    assert list(batch.inputs) == ["visual"]
    outputs = trainer.network(batch.inputs)
    assert torch.equal(outputs.joint, outputs.unimodal["visual"])


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("--method ogm --fusion gated", "no sum over modalities.*--fusion concat, sum or cosine"),
        ("--method ogm_ge --fusion film", "no sum over modalities"),
        ("--method inforeg --fusion gated", "no sum over modalities.*--prediction zeroed"),
        ("--method inforeg --prediction head", "--unimodal_loss true"),
        ("--method unimodal", "one of the modalities, audio, visual"),
        ("--method unimodal --modality text", "text"),
        ("--method unimodal --modality audio --fusion film", "two modalities"),
        ("--method greedy --encoder plain", "stages"),
        ("--method torchjd:Constant --weights 1,2,3", "two objectives"),
        ("--method ensemble --fusion film", "'average' always; leave --fusion out"),
    ],
)
def test_incompatible_options_are_refused_before_anything_is_written(
    line: str, match: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=match) as error:
        run(data, tmp_path / "run", *line.split())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["UPGrad", "Random", "PCD"])
def test_aggregators_of_torchjd_train_and_resume(name: str, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    more = ("--method", f"torchjd:{name}", "--protocol", "paper")
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(loop.Trainer, "step", 5, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_stopped_between_two_refreshes_resumes_bit_identically(data: Path, tmp_path: Path) -> None:
    more = ("--method", "mmpareto", "--variant", "paper", "--refresh", "4", "--protocol", "paper")
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(loop.Trainer, "step", 6, send_signal):  # 4 steps per epoch; refreshes at steps 1 and 5
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    for line in metrics(tmp_path / "run"):
        assert -1 <= line["cosine_audio"] <= 1 and 0 <= line["conflict_rate_audio"] <= 1
