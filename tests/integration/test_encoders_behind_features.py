"""Encoders that are found behind their features, and outputs in every form."""

import warnings
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import (
    Model,
    Outputs,
    assert_close,
    assert_same_state,
    batch_of,
    losses_of,
    make,
    ready,
    take_grads,
    turns_of,
)
from mmpareto import METHODS, MMPareto
from mmpareto.integration.features import encoders_behind
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.utils.checkpoint import checkpoint


@pytest.fixture
def model() -> Model:
    return Model()


def forward(model: nn.Module, inputs: dict[str, Tensor] | None = None) -> tuple[Outputs, Tensor, dict[str, Tensor]]:
    outputs = model(batch_of()[0] if inputs is None else inputs)
    return outputs, *losses_of(outputs, batch_of()[1])


def assert_refused(match: str, joint: Tensor, unimodal: dict[str, Tensor], **given: Any) -> None:
    with pytest.raises(ValueError, match=match):
        MMPareto().backward(joint, unimodal, **given)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "unimodal"])
def test_encoders_behind_features_are_the_models(name: str, model: Model) -> None:
    """Also in their order, on which GradNorm's last layer, MetaBalance's averages and OGM-GE's noise depend."""
    results = []
    for named in ({"encoders": dict(model.encoders.items())}, {}):
        method, loop = ready(name, model, batch_of())
        torch.manual_seed(0)
        for inputs, labels in 2 * turns_of(method, batch_of()):
            method.before_forward(loop, inputs, labels)
            outputs, joint, unimodal = forward(model, inputs)
            method.backward(joint, unimodal, outputs=outputs, labels=batch_of()[1], **named)
        results.append((take_grads(model), method.state_dict()))
    assert_close(results[1][0], results[0][0])
    assert_same_state(results[1][1], results[0][1])


def test_parameters_behind_a_feature_are_in_the_order_of_their_first_use() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    x = first(torch.ones(1, 2))
    found = encoders_behind({"audio": first(second(x)) + x})["audio"]
    assert [*map(id, found)] == [*map(id, [*first.parameters(), *second.parameters()])]


class Record(Mapping[str, Any]):
    """A mapping that is no dict, such as a library's outputs."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


@pytest.mark.parametrize("form", [dict, Record, SimpleNamespace, "argument"])
def test_outputs_are_a_mapping_or_an_object(form: Any, model: Model) -> None:
    outputs, joint, unimodal = forward(model)
    MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    wanted = take_grads(model)
    outputs, joint, unimodal = forward(model)
    if form == "argument":
        MMPareto().backward(joint, unimodal, features=outputs.features)
    else:
        MMPareto().backward(joint, unimodal, outputs=form(joint=outputs.joint, features=outputs.features))
    assert_close(take_grads(model), wanted)


@pytest.mark.parametrize("name", ["ogm", "pmr"])
def test_methods_read_the_fields_of_a_mapping(name: str, model: Model) -> None:
    results = []
    for form in (lambda outputs: outputs, lambda outputs: outputs._asdict()):
        method, _ = ready(name, model, batch_of())
        outputs, joint, unimodal = forward(model)
        method.backward(
            joint, unimodal, encoders=dict(model.encoders.items()), outputs=form(outputs), labels=batch_of()[1]
        )
        results.append(take_grads(model))
    assert_close(results[1], results[0])


@pytest.mark.parametrize("explicit", [False, True])
def test_a_modality_without_a_feature_is_absent(explicit: bool, model: Model) -> None:
    outputs, joint, unimodal = forward(model)
    joint = losses_of(outputs._replace(joint=outputs.contributions["audio"]), batch_of()[1])[0]
    features = {"audio": outputs.features["audio"]} | ({"visual": None} if explicit else {})
    MMPareto().backward(joint, {"audio": unimodal["audio"]} | ({"visual": None} if explicit else {}), features=features)
    grads = take_grads(model)
    assert all((g is None) == key.startswith(("encoders.visual", "heads.visual")) for key, g in grads.items())


def test_a_frozen_encoder_is_behind_no_feature(model: Model) -> None:
    model.encoders["visual"].requires_grad_(False)
    outputs, joint, unimodal = forward(model)
    report = MMPareto().backward(joint, unimodal, outputs=outputs)
    assert list(report) == ["audio"]
    assert take_grads(model)["heads.visual.weight"] is not None


def test_an_encoder_that_is_compiled_by_itself(model: Model) -> None:
    _, joint, unimodal = forward(model)
    MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    wanted = take_grads(model)
    with functorch_config.patch(donated_buffer=False):
        model.encoders["audio"].compile(backend="aot_eager")
        outputs, joint, unimodal = forward(model)
        MMPareto().backward(joint, unimodal, outputs=outputs)
    assert_close(take_grads(model), wanted)


def test_graphs_that_hide_the_encoders_ask_for_them(model: Model) -> None:
    outputs, joint, unimodal = forward(model)
    assert_refused("name the encoders", joint, unimodal)
    assert_refused("name the encoders", joint, unimodal, outputs={"joint": joint})
    assert_refused("name the encoders", joint, unimodal, outputs=outputs, interaction=True)
    assert_refused("'visual' has no encoder", joint, unimodal, features={"audio": outputs.features["audio"]})
    inputs = {name: x.requires_grad_() for name, x in batch_of()[0].items()}
    assert_refused("is no nn.Parameter.*name the encoders", joint, unimodal, outputs=model(inputs))
    copies = {name: feature * 1 for name, feature in outputs.features.items()}
    assert_refused("in another way.*name the encoders", joint, unimodal, features=copies)

    mixed = Model(mixed=True)
    outputs, joint, unimodal = forward(mixed)
    assert_refused("both 'audio' and 'visual'.*name the encoders", joint, unimodal, outputs=outputs)

    tied = Model()
    tied.encoders["visual"] = tied.encoders["audio"]
    outputs, joint, unimodal = forward(tied)
    assert_refused("both 'audio' and 'visual'", joint, unimodal, outputs=outputs)

    with functorch_config.patch(donated_buffer=False):
        outputs, joint, unimodal = forward(torch.compile(model, backend="aot_eager"))
        assert_refused("name the encoders", joint, unimodal, outputs=outputs)
    torch.compiler.reset()


class Reentrant(Model):
    """The model whose encoders recompute their activations in the older way."""

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        encoders = self.encoders
        recomputed = {
            name: lambda x, e=encoder: checkpoint(e, x, use_reentrant=True) for name, encoder in encoders.items()
        }
        self.encoders = _Functions(recomputed)  # type: ignore[assignment]
        try:
            return super().forward({name: x.requires_grad_() for name, x in inputs.items()})
        finally:
            self.encoders = encoders


class _Functions(nn.Module):
    def __init__(self, functions: dict[str, Any]) -> None:
        super().__init__()
        self.items = functions.items  # type: ignore[assignment]


def test_reentrant_checkpointing_is_refused_in_a_sentence() -> None:
    model = Reentrant()
    outputs, joint, unimodal = forward(model)
    assert_refused("use_reentrant=False", joint, unimodal, encoders=dict(model.encoders.items()))
    assert_refused("reentrant", joint, unimodal, outputs=outputs)


@pytest.mark.parametrize(
    "outputs", [(1, 2), torch.ones(2), object(), "features", {"logits": 1}], ids=lambda outputs: type(outputs).__name__
)
def test_outputs_that_cannot_be_used_are_refused(outputs: Any, model: Model) -> None:
    _, joint, unimodal = forward(model)
    assert_refused("features", joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs)
    assert all(g is None for g in take_grads(model).values())


@pytest.mark.parametrize("features", [[torch.ones(2)], {"audio": 1.0}], ids=repr)
def test_features_of_another_type_are_refused(features: Any, model: Model) -> None:
    _, joint, unimodal = forward(model)
    for given in ({"features": features}, {"outputs": SimpleNamespace(features=features)}):
        assert_refused("feature", joint, unimodal, encoders=dict(model.encoders.items()), **given)


def test_outputs_of_no_use_are_warned_of_once(model: Model) -> None:
    for given in (
        lambda outputs: {"unimodal": outputs.unimodal},
        lambda outputs: {"features": {name: x.detach() for name, x in outputs.features.items()}},
    ):
        method = make("mmpareto")
        with pytest.warns(UserWarning, match="features") as caught:
            for _ in range(3):
                outputs, joint, unimodal = forward(model)
                method.backward(joint, unimodal, encoders=dict(model.encoders.items()), outputs=given(outputs))
        assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs, joint, unimodal = forward(model)
        MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs)
        ogm, _ = ready("ogm", model, batch_of())
        outputs, joint, unimodal = forward(model)
        ogm.backward(
            joint,
            unimodal,
            encoders=dict(model.encoders.items()),
            labels=batch_of()[1],
            outputs={"contributions": outputs.contributions},
        )
