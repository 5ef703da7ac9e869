import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.models.building import build_network
from mmpareto.training import probe
from mmpareto.training.loop import Trainer
from mmpareto.training.probe import DECAY, fit_logistic_regression, fit_ridge_regression
from prepared_clips import open_clips, write_prepared
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from tiny_runs import acting, assert_same_run, metrics, read, resume, run, send_signal
from torch import Tensor


def samples(count: int, size: int, classes: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian clouds whose features have very different scales and offsets."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, size, generator=generator)
    features = centres[labels] + spread * torch.randn(count, size, generator=generator)
    return features * torch.logspace(-2, 2, size) + torch.linspace(-5, 50, size), labels


def sklearn_head(features: Tensor, labels: Tensor) -> tuple[StandardScaler, LogisticRegression]:
    """The same objective: mean cross-entropy + ½·decay·‖W‖² is C·(sum of cross-entropies) + ½‖W‖², C = 1/(N·decay)."""
    scaler = StandardScaler().fit(features.double().numpy())
    solver = LogisticRegression(C=1 / (len(labels) * DECAY), tol=1e-10, max_iter=10_000)
    return scaler, solver.fit(scaler.transform(features.double().numpy()), labels.numpy())


@pytest.mark.parametrize(("count", "size", "classes", "spread"), [(120, 5, 3, 2.0), (60, 20, 4, 0.5), (40, 3, 6, 1.0)])
def test_the_head_is_sklearns_logistic_regression(count: int, size: int, classes: int, spread: float) -> None:
    features, labels = samples(count, size, classes, spread)
    head = fit_logistic_regression(features, labels, classes)
    assert head["weight"].shape == (classes, size) and head["bias"].shape == (classes,)
    assert head["weight"].dtype == torch.float32 and not head["weight"].requires_grad
    scaler, expected = sklearn_head(features, labels)
    logits = (features @ head["weight"].T + head["bias"]).softmax(1)
    probabilities = expected.predict_proba(scaler.transform(features.double().numpy()))
    np.testing.assert_allclose(logits.numpy(), probabilities, atol=2e-3)


def test_several_labels_are_independent_logistic_regressions() -> None:
    features, group = samples(90, 4, 3, spread=2.0)
    labels = torch.stack([group == 0, group < 2, group == 2], dim=1).long()
    head = fit_logistic_regression(features, labels, 3)
    probabilities = (features @ head["weight"].T + head["bias"]).sigmoid()
    for label in range(3):
        scaler, expected = sklearn_head(features, labels[:, label])
        positive = expected.predict_proba(scaler.transform(features.double().numpy()))[:, 1]
        np.testing.assert_allclose(probabilities[:, label], positive, atol=2e-3)


def test_separable_classes_are_separated_and_the_weights_stay_finite() -> None:
    features, labels = samples(40, 12, 4, spread=0.01)
    head = fit_logistic_regression(features, labels, 4)
    assert torch.equal((features @ head["weight"].T + head["bias"]).argmax(1), labels)
    assert all(tensor.isfinite().all() for tensor in head.values())


def test_a_constant_feature_and_an_absent_class_are_handled() -> None:
    features, labels = samples(30, 4, 3, spread=0.5)
    features[:, 2] = 7.0
    head = fit_logistic_regression(features, labels, 5)  # classes 3 and 4 have no sample
    logits = features @ head["weight"].T + head["bias"]
    assert logits.isfinite().all() and logits.argmax(1).max() < 3
    assert torch.equal(head["weight"][:, 2], torch.zeros(5))


def test_linearly_dependent_features_have_the_same_head() -> None:
    """The features of `SmallCNN` have rank 64 of 512."""
    narrow, labels = samples(120, 4, 3, spread=1.5)
    features = narrow @ torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    head = fit_logistic_regression(features, labels, 3)
    scaler, expected = sklearn_head(features, labels)
    logits = (features @ head["weight"].T + head["bias"]).softmax(1)
    probabilities = expected.predict_proba(scaler.transform(features.double().numpy()))
    np.testing.assert_allclose(logits.numpy(), probabilities, atol=2e-3)
    assert head["weight"].norm().item() == pytest.approx(
        float(np.linalg.norm(expected.coef_ / scaler.scale_)), rel=0.01
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=21, test=9)


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the joint loss alone, whose best epoch on the test set is not its last."""
    made = tmp_path_factory.mktemp("runs") / "run"
    assert run(data, made, "--method", "joint", "--epochs", "3") == 0
    return made


def features_of(data: Path, checkpoint: dict, clips: list[str], split: str) -> tuple[dict[str, Tensor], list[int]]:
    network = build_network(**checkpoint["network"])
    network.load_state_dict(checkpoint["model"])
    network.eval()
    whole = open_clips(data, split, training=False, frames=1, image_size=24, audio_frames=64)
    indices = [whole.names.index(clip) for clip in clips] if clips else list(range(len(whole)))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    inputs = [whole[index][0] for index in indices]
    with torch.no_grad():
        audio = torch.stack([values["audio"] for values in inputs])
        visual = torch.stack([(values["visual"] / 255 - mean) / std for values in inputs])
        features = network({"audio": audio, "visual": visual}).features
    return features, [whole.labels[index] for index in indices]


def test_unimodal_heads_of_a_joint_run_keep_their_initial_weights(folder: Path) -> None:
    torch.manual_seed(0)
    initial = build_network({"audio": 1, "visual": 3}, 3, encoder="tiny").state_dict()
    for name in ("last.pt", "best.pt"):
        content = read(folder / name)
        assert content["heads_trained"] is False
        for key, tensor in initial.items():
            if key.startswith("heads."):
                assert torch.equal(content["model"][key], tensor), key
        assert not torch.equal(content["model"]["fusion.fc_out.weight"], initial["fusion.fc_out.weight"])


def test_the_summary_has_the_probes_accuracies_and_the_checkpoints_its_heads(data: Path, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert "linear probe" in summary["unimodal_note"]
    from mmpareto.training.data import open_data
    from mmpareto.training.settings import from_config

    training = open_data(from_config(json.loads((folder / "config.json").read_text()))).train.names
    for name, key in (("last.pt", "last"), ("best.pt", "best_val")):
        content = read(folder / name)
        assert list(content["probe"]) == ["audio", "visual"]
        features, labels = features_of(data, content, training, "train")
        test_features, test_labels = features_of(data, content, [], "test")
        for modality, head in content["probe"].items():
            expected = fit_logistic_regression(features[modality], torch.tensor(labels), 3)
            torch.testing.assert_close(head["weight"], expected["weight"], rtol=1e-3, atol=1e-3)
            logits = test_features[modality] @ head["weight"].T + head["bias"]
            right = (logits.argmax(1) == torch.tensor(test_labels)).double().mean().item()
            assert summary[key][f"acc_{modality}"] == pytest.approx(right)


def test_a_large_training_set_is_sampled_by_class(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_clips(data, "train", training=False, frames=1, image_size=24, audio_frames=64)
    assert probe.probe_samples(whole, 0) is whole
    monkeypatch.setattr(probe, "MAX_SAMPLES", 9)
    drawn, again, other = (probe.probe_samples(whole, seed) for seed in (3, 3, 4))
    assert torch.tensor(drawn.labels).bincount().tolist() == [3, 3, 3]
    assert drawn.names == again.names != other.names and set(drawn.names) < set(whole.names)
    inputs, label, *_ = whole[whole.names.index(drawn.names[5])]
    assert torch.equal(drawn[5].inputs["audio"], inputs["audio"]) and drawn[5].label == label


def test_without_the_probe_nothing_is_measured_until_the_run_is_resumed_with_it(
    data: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "run"
    assert run(data, made, "--method", "joint", "--epochs", "3", "--no_probe") == 0
    unprobed = json.loads((made / "summary.json").read_text())
    assert unprobed["last"]["acc_audio"] is None and "--no_probe" in unprobed["unimodal_note"]
    assert "probe" not in read(made / "last.pt") and "probe" not in unprobed
    assert FinishedRun(made).is_finished and FinishedRun(made).identity == FinishedRun(folder).identity
    assert "linear probes on" not in capsys.readouterr().out

    assert resume(made, "--no_probe", "false") == 0
    assert capsys.readouterr().out.count("linear probes on 18 training samples") == 1
    assert_same_run(made, folder)

    before = {path.name: path.read_bytes() for path in made.iterdir()}
    monkeypatch.setattr(Trainer, "predict", None)  # what has been measured is not measured again
    assert resume(made) == 0
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_the_number_of_samples_is_recorded(
    data: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads((folder / "summary.json").read_text())["probe"] == {"samples": 18, "available": 18}
    monkeypatch.setattr(probe, "MAX_SAMPLES", 9)
    assert run(data, tmp_path / "run", "--method", "joint", "--epochs", "1") == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["probe"] == {"samples": 9, "available": 18}


def test_a_run_stopped_while_probing_continues_there(data: Path, folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "run"
    with acting(probe.torch.optim.LBFGS, "step", 1, send_signal):
        assert run(data, made, "--method", "joint", "--epochs", "3") == 143
    assert not (made / "summary.json").exists()
    assert resume(made) == 0
    assert_same_run(made, folder)


def test_metrics_that_were_not_measured_are_null(folder: Path) -> None:
    for line in metrics(folder):
        assert line["acc_audio"] is None and line["loss_visual"] is None and line["val_acc_audio"] is None
        assert isinstance(line["acc"], float) and isinstance(line["val_acc"], float)
        assert not any(key.startswith(("train_acc_", "conflict_rate_", "cosine_", "norm_")) for key in line)
    summary = json.loads((folder / "summary.json").read_text())
    probed = {summary["last"]["epoch"], summary["best_val"]["epoch"]}
    assert (summary["best_test"]["acc_audio"] is not None) == (summary["best_test"]["epoch"] in probed)


def test_the_head_for_scores_is_sklearns_ridge_regression() -> None:
    features, _ = samples(80, 7, 3, 1.0)
    scores = features @ torch.linspace(-1, 1, 7) * 0.01 + torch.randn(80, generator=torch.Generator().manual_seed(1))
    head = fit_ridge_regression(features, scores)
    assert head["weight"].shape == (1, 7) and head["bias"].shape == (1,)
    scaler = StandardScaler().fit(features.double().numpy())
    expected = Ridge(alpha=DECAY * 80).fit(scaler.transform(features.double().numpy()), scores.double().numpy())
    predicted = torch.nn.functional.linear(features.double(), head["weight"].double(), head["bias"].double())[:, 0]
    np.testing.assert_allclose(
        predicted.numpy(), expected.predict(scaler.transform(features.double().numpy())), rtol=1e-4, atol=1e-4
    )
