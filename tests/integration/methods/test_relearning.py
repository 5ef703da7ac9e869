"""Diagnosing & Re-learning against scikit-learn and its equations."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from every_method import Loop, Model, assert_same_state, batch_of, step, take_grads
from mmpareto.integration.methods.relearning import Relearning, purity, scaled
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import MinMaxScaler
from torch import Tensor, nn


class Measured(Loop):
    """Gives prescribed features in two batches, for any number of modalities."""

    def __init__(
        self, model: nn.Module, sets: Mapping[str, tuple[dict[str, Tensor], Tensor]], epochs: int = 40
    ) -> None:
        super().__init__(model, batch_of(len(next(iter(sets.values()))[0])))
        self.sets, self.epochs, self.asked = sets, epochs, list[str]()

    def features(self, share: float, samples: str = "training") -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        assert share == 1.0
        self.asked.append(samples)
        features, labels = self.sets[samples]
        for part in (slice(0, 5), slice(5, None)):
            yield {name: x[part] for name, x in features.items()}, labels[part]


def blobs(count: int, size: int, spread: float, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Features (N, 2, 2) around one centre per class, more spread out in every further modality."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 3
    centres = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)) * 3
    return {
        name: centres[labels] + spread * (index + 1) * torch.randn(size, 2, 2, generator=generator)
        for index, name in enumerate(("audio", "visual", "text")[:count])
    }, labels


def sets_of(count: int) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    return {
        "augmented": blobs(count, 60, 0.7, 1),
        "validation": blobs(count, 20, 2.0, 2),
        "training": blobs(count, 60, 3, 3),
    }


def literal_purity(features: Tensor, labels: Tensor) -> float:
    """As the released code computes it."""
    x = MinMaxScaler(feature_range=(-1, 1)).fit_transform(features.flatten(1).double().numpy())
    clusters = KMeans(n_clusters=3, random_state=0, n_init=1).fit_predict(x)
    right = 0
    for cluster in np.unique(clusters):
        right += np.bincount(labels.numpy()[clusters == cluster]).max()
    return right / len(labels)


def trained(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)


@pytest.mark.parametrize("samples", ["augmented", "training"])
@pytest.mark.parametrize("count", [1, 3])
def test_encoders_move_back_by_the_gap_of_purities(count: int, samples: str) -> None:
    model, sets = Model(count), sets_of(count)
    method, loop = Relearning(samples=samples), Measured(model, sets)
    method.begin_training(loop)
    initial = copy.deepcopy(model)
    trained(model)
    current = copy.deepcopy(model)
    loop.epoch = 22
    method.begin_epoch(loop)
    strengths = {}
    for name in model.modalities:
        gaps = [literal_purity(sets[part][0][name], sets[part][1]) for part in (samples, "validation")]
        strengths[name] = math.tanh(3 * abs(gaps[0] - gaps[1]))
    assert max(strengths.values()) > 0.1 and len(set(strengths.values())) == count
    before, start = dict(current.named_parameters()), dict(initial.named_parameters())
    for key, p in model.named_parameters():
        if not key.startswith("encoders."):
            assert torch.equal(p, before[key])
            continue
        a = strengths[key.split(".")[1]]
        torch.testing.assert_close(p.data, a * start[key].data + (1 - a) * before[key].data, rtol=1e-12, atol=1e-12)
    report = step(method, loop, loop.batch)
    assert {n: float(report.metrics[f"relearning_{n}"]) for n in model.modalities} == pytest.approx(strengths)
    assert loop.asked == [samples, "validation"]


def test_the_epochs_are_those_of_the_released_code() -> None:
    """`epoch % E == 0 and epoch > 0` at the end of an epoch from 0, at most N times."""
    model, acted = Model(), []
    method, loop = Relearning(reinit_epoch=3, reinit_num=2), Measured(model, sets_of(2))
    method.begin_training(loop)
    for loop.epoch in range(1, 16):
        before = method.count
        method.begin_epoch(loop)
        if method.count > before:
            acted.append(loop.epoch - 2)
    assert acted == [3, 6]


def test_buffers_and_the_other_weights_stay() -> None:
    """BatchNorm's weight and bias are re-initialised, its running statistics are not; a frozen tensor is the same."""
    model = Model()
    for name in ("audio", "visual"):
        model.encoders[name].norm = nn.BatchNorm1d(4).double()
    method, loop = Relearning(reinit_epoch=1), Measured(model, sets_of(2))
    method.begin_training(loop)
    trained(model)
    norm = model.encoders["visual"].norm
    norm.running_mean.fill_(5.0)
    loop.epoch = 3
    method.begin_epoch(loop)
    a = method.moved["visual"]
    torch.testing.assert_close(norm.bias.data, torch.full((4,), 1 - a, dtype=torch.float64))
    assert a > 0 and bool((norm.running_mean == 5).all())


def test_a_loaded_state_has_the_first_weights_and_the_count() -> None:
    model, sets = Model(), sets_of(2)
    method, loop = Relearning(reinit_epoch=1, reinit_num=2), Measured(model, sets)
    method.begin_training(loop)
    trained(model)
    loop.epoch = 3
    method.begin_epoch(loop)
    other, twin = Relearning(reinit_epoch=1, reinit_num=2), copy.deepcopy(model)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    its_loop = Measured(twin, sets)
    other.begin_training(its_loop)
    for epoch in (4, 5):  # of which the second is one too many
        for one, where in ((method, loop), (other, its_loop)):
            trained(where.network)
            where.epoch = epoch
            one.begin_epoch(where)
    assert_same_state(dict(twin.state_dict()), dict(model.state_dict()))
    assert_same_state(other.state_dict(), method.state_dict())
    assert method.count == 2


def test_features_that_are_not_finite_move_nothing() -> None:
    model, sets = Model(), sets_of(2)
    sets["validation"][0]["visual"][0] = math.nan
    method, loop = Relearning(reinit_epoch=1), Measured(model, sets)
    method.begin_training(loop)
    trained(model)
    before = copy.deepcopy(model.encoders["visual"].state_dict())
    loop.epoch = 3
    method.begin_epoch(loop)
    assert_same_state(dict(model.encoders["visual"].state_dict()), dict(before))
    assert method.moved["visual"] == 0 < method.moved["audio"]


def test_a_step_is_that_of_the_joint_loss() -> None:
    model, batch = Model(3), batch_of(3)
    method = Relearning(reinit_epoch=1)
    method.begin_training(Loop(model, batch))
    nn.functional.cross_entropy(model(batch[0]).joint, batch[1]).backward()
    wanted = take_grads(model)
    report = step(method, Loop(model, batch), batch)
    assert_same_state(take_grads(model), wanted)
    assert all(float(value) == 0 for value in report.metrics.values()) and len(report.metrics) == 3


def test_a_run_that_ends_too_early_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"after epoch 21: in 21 epochs it is joint training"):
        Relearning().begin_training(Measured(Model(), sets_of(2), epochs=21))


@pytest.mark.parametrize("size", [1, 7, 40])
def test_purity_and_scaling_against_scikit_learn(size: int) -> None:
    """A class and a cluster are absent; a column is constant."""
    generator = torch.Generator().manual_seed(size)
    clusters, labels = (torch.randint(5, (size,), generator=generator) for _ in range(2))
    labels[labels == 1], clusters[clusters == 3] = 2, 0
    table: Any = contingency_matrix(labels.numpy(), clusters.numpy())
    assert purity(clusters, labels) == pytest.approx(table.max(0).sum() / size)
    features = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    features[:, 1] = 4.0
    wanted = MinMaxScaler(feature_range=(-1, 1)).fit_transform(features.numpy())
    torch.testing.assert_close(scaled(features), torch.from_numpy(wanted))


def test_a_validation_set_smaller_than_the_classes_is_clustered_by_samples() -> None:
    model, sets = Model(), sets_of(2)
    features, labels = sets["validation"]
    sets["validation"] = {name: x[:2] for name, x in features.items()}, labels[:2]
    method, loop = Relearning(reinit_epoch=1), Measured(model, sets)
    method.begin_training(loop)
    loop.epoch = 3
    method.begin_epoch(loop)  # every sample is a cluster of its own: the purity is 1
    train = literal_purity(sets["augmented"][0]["visual"], sets["augmented"][1])
    assert method.moved["visual"] == pytest.approx(math.tanh(3 * (1 - train)))
