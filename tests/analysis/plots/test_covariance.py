"""Gradient noise, compared with dense covariances and with gradients in closed form."""

import numpy as np
import pytest
import torch
from mmpareto.analysis.plots import covariance
from mmpareto.analysis.plots.covariance import VectorCovariance
from mmpareto.analysis.plots.measured import Subject, flat
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from small_subject import FEATURE, curved_network, inputs_of, linear_network, subject_of

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")


def spread_of(vectors: np.ndarray) -> VectorCovariance:
    spread = VectorCovariance()
    for vector in vectors:
        spread.add(torch.from_numpy(vector))
    return spread


@pytest.mark.parametrize(("count", "size"), [(2, 7), (9, 7), (6, 40), (64, 1), (4, 9000)])
@pytest.mark.parametrize("columns", [1 << 20, 3])
def test_trace_and_largest_eigenvalue_are_those_of_the_dense_covariance(
    count: int, size: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariance, "COLUMNS", columns)
    random = np.random.default_rng(size)
    vectors = random.standard_normal((count, size)) * random.uniform(0.1, 5, size) + 3
    spread = spread_of(vectors)
    if size <= 40:
        dense = np.atleast_2d(np.cov(vectors.T))
        largest = np.linalg.eigvalsh(dense)[-1]
    else:
        largest = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)[0] ** 2 / (count - 1)
    assert spread.metrics() == {
        "trace": pytest.approx(vectors.var(0, ddof=1).sum(), rel=1e-12),
        "largest_eigenvalue": pytest.approx(largest, rel=1e-12),
        "mean_norm": pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-12),
    }


def test_float32_vectors_far_from_zero_keep_their_digits() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 3000)).astype(np.float32) + np.float32(30)
    dense = vectors.astype(np.float64)
    centred = dense - dense.mean(0)
    metrics = spread_of(vectors).metrics()
    assert metrics["trace"] == pytest.approx((centred**2).sum() / 19, rel=1e-5)
    assert metrics["largest_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(centred @ centred.T)[-1] / 19, rel=1e-5)


def test_nonfinite_vectors_give_nan() -> None:
    assert all(np.isnan(value) for value in spread_of(np.array([[1.0, 2.0], [np.nan, 1.0]])).metrics().values())


def test_equal_vectors_have_no_spread() -> None:
    assert spread_of(np.ones((5, 4))).metrics() == {"trace": 0, "largest_eigenvalue": 0, "mean_norm": 2}


def test_parameters_that_a_loss_does_not_reach_have_zero_gradients() -> None:
    like = [torch.ones(2, 3), torch.ones(4)]
    assert flat([None, torch.arange(4.0)], like).tolist() == [0] * 6 + [0, 1, 2, 3]


def by_hand(subject: Subject, indices: list[int], modality: str) -> dict[str, np.ndarray]:
    """Gradients of a linear encoder W over a batch: mean of Aᵀ (softmax(A W x + …) − onehot(y)) xᵀ."""
    network = subject.network
    inputs, labels = inputs_of(subject, indices)
    with torch.no_grad():
        outputs = network(inputs)
    columns = slice(0, FEATURE) if modality == "sound" else slice(FEATURE, 2 * FEATURE)
    heads = {
        "joint": (network.fusion.fc_out.weight[:, columns], outputs.joint),
        "unimodal": (network.heads[modality].weight, outputs.unimodal[modality]),
    }
    result = {}
    for name, (head, logits) in heads.items():
        residual = logits.softmax(1) - torch.eye(logits.shape[1], dtype=logits.dtype)[labels]
        gradient = (residual @ head).T @ inputs[modality] / len(indices)
        result[name] = gradient.detach().numpy().reshape(-1)
    return result


def test_the_covariance_of_a_linear_classifier_matches_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(linear_network())
    drawn: list[list[int]] = []
    gradients_of = covariance.gradients_of

    def recording(subject: Subject, batch: covariance.Batch) -> dict[str, list[torch.Tensor]]:
        drawn.append(batch.indices.tolist())
        return gradients_of(subject, batch)

    monkeypatch.setattr(covariance, "gradients_of", recording)
    result = covariance.measure(subject, batches=7)["encoders"]
    assert [len(indices) for indices in drawn] == [4] * 7 and all(len(set(indices)) == 4 for indices in drawn)
    for modality in ("sound", "touch"):
        gradients = [by_hand(subject, indices, modality) for indices in drawn]
        for name in ("joint", "unimodal"):
            vectors = np.stack([one[name] for one in gradients])
            dense = np.cov(vectors.T)
            assert result[modality][name] == {
                "trace": pytest.approx(np.trace(dense), rel=1e-10),
                "largest_eigenvalue": pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-10),
                "mean_norm": pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-10),
            }


def test_many_batches_approach_the_covariance_of_draws_without_replacement() -> None:
    """The expected trace is (1 − B / M) S² / B, where S² is the trace for single samples."""
    subject = subject_of(linear_network(), count=12)
    every = np.stack([by_hand(subject, [index], "sound")["joint"] for index in range(12)])
    truth = np.trace(np.cov(every.T)) / 4 * (1 - 4 / 12)
    result = covariance.measure(subject, batches=300, batch_size=4)
    assert result["encoders"]["sound"]["joint"]["trace"] == pytest.approx(truth, rel=0.1)


def test_batch_norm_is_fixed_and_samples_are_independent() -> None:
    """A batch's gradient is the mean of its samples' gradients, and the running statistics do not change."""
    subject = subject_of(curved_network(batch_norm=True))
    before = {name: buffer.clone() for name, buffer in subject.network.named_buffers()}
    (whole,) = subject.batches(range(6), 6)
    singles = subject.batches(range(6), 1)
    together = covariance.gradients_of(subject, whole)
    alone = [covariance.gradients_of(subject, one) for one in singles]
    for modality, gradients in together.items():
        for index, gradient in enumerate(gradients):
            mean = torch.stack([one[modality][index] for one in alone]).mean(0)
            torch.testing.assert_close(gradient, mean, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(buffer, before[name]) for name, buffer in subject.network.named_buffers())


def test_gradients_are_those_of_autograd() -> None:
    subject = subject_of(curved_network())
    (batch,) = subject.batches([3, 1, 2], 3)
    result = covariance.gradients_of(subject, batch)
    network = subject.network
    for modality, encoder in network.encoders.items():
        outputs = network(batch.inputs)
        for index, logits in enumerate((outputs.joint, outputs.unimodal[modality])):
            loss = torch.nn.functional.cross_entropy(logits, batch.labels)
            truth = torch.autograd.grad(loss, list(encoder.parameters()), retain_graph=True)
            torch.testing.assert_close(result[modality][index], torch.cat([g.reshape(-1) for g in truth]))


def test_measurement_is_repeatable_and_leaves_no_gradient_behind() -> None:
    subject = subject_of(curved_network())
    assert covariance.measure(subject, batches=5) == covariance.measure(subject, batches=5)
    assert all(parameter.grad is None for parameter in subject.network.parameters())


def test_untrained_heads_have_no_unimodal_gradient() -> None:
    result = covariance.measure(subject_of(curved_network(), heads=False), batches=3)
    assert [list(names) for names in result["encoders"].values()] == [["joint"], ["joint"]]


def test_a_batch_of_the_whole_training_set_is_refused() -> None:
    with pytest.raises(InputError, match="no noise: give a smaller --batch_size"):
        covariance.measure(subject_of(linear_network(), count=8), batches=3, batch_size=8)


def test_a_full_disk_is_an_input_error() -> None:
    class Full:
        def write(self, content: bytes) -> None:
            raise OSError(28, "No space left on device")

    spread = VectorCovariance()
    spread._file = Full()  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        spread.add(torch.ones(3))


def test_encoders_that_exchange_information_have_their_own_losses() -> None:
    """As in training, an encoder's unimodal gradient is that of its own loss, although other losses reach it."""
    network = build_network({"sound": 3, "touch": 1}, 2, encoder="tiny", blocks="mmtm")
    subject = subject_of(network)
    inputs = {"sound": torch.randn(4, 3, 24, 24), "touch": torch.randn(4, 1, 24, 24)}
    labels = torch.tensor([0, 1, 0, 1])
    result = covariance.gradients_of(subject, covariance.Batch(inputs, labels, labels))
    for name, encoder in network.encoders.items():
        loss = torch.nn.functional.cross_entropy(network(inputs).unimodal[name], labels)
        truth = torch.autograd.grad(loss, list(encoder.parameters()))
        torch.testing.assert_close(result[name][1], torch.cat([g.reshape(-1) for g in truth]))
