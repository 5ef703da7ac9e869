"""UMT: the loss against one written out by hand, frozen teachers, absent modalities, and what is refused."""

from typing import Any

import pytest
import torch
from every_method import Loop, Model, assert_close, batch_of, losses_of, step, take_grads
from mmpareto import UMT
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize("count", [1, 3])
def test_the_step_is_the_gradient_of_the_written_out_loss(count: int) -> None:
    model, batch = Model(count), batch_of(count)
    loop, method = Loop(model, batch), UMT(distillation_weight=3.0, teachers=("7",))
    method.begin_training(loop)
    step(method, loop, batch)
    got = take_grads(model)

    inputs, labels = batch
    outputs, teacher = model(inputs), Model(count, seed=7)(inputs)
    loss = cross_entropy(outputs.joint, labels)
    for name, x in outputs.features.items():
        squares = [(float(t) - v) ** 2 for row, target in zip(x, teacher.features[name], strict=True)
                   for v, t in zip(row, target.detach(), strict=True)]  # fmt: skip
        loss = loss + 3.0 * sum(squares) / len(squares)
    loss.backward()
    assert_close(got, take_grads(model))
    assert all(p.grad is None for network in method._networks for p in network.parameters())


def test_a_perfect_student_has_the_joint_gradient_alone() -> None:
    model, batch = Model(2, seed=7), batch_of()
    loop, method = Loop(model, batch), UMT(teachers=("7",))
    method.begin_training(loop)
    step(method, loop, batch)
    got = take_grads(model)
    cross_entropy(model(batch[0]).joint, batch[1]).backward()
    assert_close(got, take_grads(model))


def test_micro_batches_of_unequal_size_add_up_to_the_batch() -> None:
    model, (inputs, labels) = Model(), batch_of(size=10)
    loop, method = Loop(model, (inputs, labels)), UMT(teachers=("7",))
    method.begin_training(loop)
    step(method, loop, (inputs, labels))
    whole = take_grads(model)
    for part, more in ((slice(0, 3), True), (slice(3, 10), False)):
        batch = {name: x[part] for name, x in inputs.items()}
        method.before_forward(loop, batch, labels[part])
        outputs = model(batch)
        share = (part.stop - part.start) / 10
        joint, unimodal = losses_of(outputs, labels[part], share)
        arguments: dict[str, Any] = {"encoders": dict(model.encoders.items()), "outputs": outputs, "share": share}
        if more:
            with method.accumulate():
                method.backward(joint, unimodal, **arguments)
        else:
            method.backward(joint, unimodal, **arguments)
    assert_close(take_grads(model), whole)


def test_an_absent_modality_is_not_distilled_and_an_empty_batch_gives_no_nan() -> None:
    features = {"audio": torch.randn(0, 4, dtype=torch.float64, requires_grad=True)}
    layer = torch.nn.Linear(4, 4).double()
    method = UMT()
    method.teach(features)
    out = {"audio": layer(features["audio"])}
    encoders: dict[str, Any] = {"audio": layer, "visual": torch.nn.Linear(4, 4).double()}
    method.backward(out["audio"].sum(), {}, encoders=encoders, outputs={"features": out})
    assert all(p.grad is not None and bool((p.grad == 0).all()) for p in layer.parameters())
    assert all(p.grad is None for p in encoders["visual"].parameters())


class TwoTeachers(Loop):
    """A loop whose "teachers" are named by their modalities."""

    def load_network(self, path: str) -> Any:
        network = Model(2, mixed=path == "mixed")
        for name in [name for name in network.modalities if path not in (name, "mixed")]:
            del network.encoders[name]
        return network


@pytest.mark.parametrize(
    ("teachers", "match"),
    [
        ((), "needs a teacher of audio and visual: give --teachers"),
        (("visual",), "needs a teacher of audio"),
        (("visual", "visual"), "visual has two teachers"),
        (("mixed",), "not unimodal"),
    ],
)
def test_teachers_of_the_wrong_modalities_are_refused(teachers: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        UMT(teachers=teachers).begin_training(TwoTeachers(Model(), batch_of()))


def test_missing_or_misshapen_teachers_are_refused() -> None:
    model, batch = Model(), batch_of()
    loop = Loop(model, batch)
    with pytest.raises(ValueError, match="no feature of the teacher of 'audio'"):
        step(UMT(), loop, batch)
    method = UMT()
    outputs = model(batch[0])
    method.teach({name: x[:, :1] for name, x in outputs.features.items()})
    with pytest.raises(ValueError, match=r"shape \(12, 4\), but its teacher's \(12, 1\)"):
        method.backward(*losses_of(outputs, batch[1]), encoders=dict(model.encoders.items()), outputs=outputs)
