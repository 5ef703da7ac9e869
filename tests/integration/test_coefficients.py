"""No method reports a coefficient that acts on nothing, whatever the encoders."""

from typing import Any

import pytest
import torch
from every_method import Loop, Model, batch_of, losses_of, ready, step, take_grads
from mmpareto import METHODS
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork
from torch import Tensor

PREFIX = "coefficient_"
MODALITIES = ("audio", "visual")
SLOW = ("resnet18", "resnet34", "resnet50")  # of tens of millions of parameters
LIKE_MBT_TINY = ("mbt-base", "mbt-small")  # but so wide that three samples saturate PMR's loss of distances
BUILT_IN = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in ENCODERS
    if name not in LIKE_MBT_TINY
]
SAMPLE = {"vectors": (5,), "sequences": (4, 6), "images": (3, 16, 16)}  # of sequences, the last channel is the mask
CHANNELS = {"vectors": 5, "sequences": 5, "images": 3}
NEUTRAL = {"pmr": 0.0}  # of its prototypes' loss; a factor of the gradient is 1
REPORTING = ("ogm", "ogm_ge", "pmr", "agm", "cggm")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ogm": [{}, {"modulated": "weights"}],
    "ogm_ge": [{}, {"modulated": "weights"}],
    "agm": [dict(options) for options in METHODS["agm"].variants.values()],
    "cggm": [dict(options) for options in METHODS["cggm"].variants.values()],
    "pmr": [{**options, "alpha": 100.0} for options in METHODS["pmr"].variants.values()],
}


class Trainer(Loop):
    def eval_forward(self, inputs: dict[str, Tensor], graph: bool = False) -> Any:
        self.network.eval()
        with torch.set_grad_enabled(graph):
            outputs = self.network(inputs)
        self.network.train()
        return outputs


@pytest.mark.parametrize("name", [name for name in METHODS if name != "unimodal"])
def test_which_methods_report_coefficients(name: str) -> None:
    """A method that reports coefficients for the first time belongs in `REPORTING`."""
    model, batch = Model(), batch_of()
    method, loop = ready(name, model, batch)
    reports = any(key.startswith(PREFIX) for key in step(method, loop, batch).metrics)
    assert reports == (name in REPORTING)


def network_and_batch(encoder: str) -> tuple[MultimodalNetwork, tuple[dict[str, Tensor], Tensor]]:
    torch.manual_seed(0)
    kind = getattr(ENCODERS[encoder], "takes", ("images",))[0]
    shapes = dict.fromkeys(MODALITIES, SAMPLE[kind])
    network = build_network(
        dict.fromkeys(MODALITIES, CHANNELS[kind]), 3, encoder=encoder, fusion=None, input_shapes=shapes
    )
    with torch.no_grad():
        next(network.fusion.parameters()).mul_(20)  # so that the modalities differ in confidence
    inputs = {name: torch.randn(3, *SAMPLE[kind]) for name in MODALITIES}
    if kind == "sequences":
        for x in inputs.values():
            x[..., -1] = 1.0
    return network, (inputs, torch.tensor([0, 1, 2]))


def gradients_of(network: MultimodalNetwork, batch: tuple[dict[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """The joint loss's gradients in training mode, with the same dropout as in `modulated`."""
    torch.manual_seed(1)
    losses_of(network(batch[0]), batch[1])[0].backward()
    return {name: g for name, g in take_grads(network).items() if g is not None}


@pytest.mark.parametrize("encoder", BUILT_IN)
def test_a_coefficient_other_than_the_neutral_one_changes_the_gradient(encoder: str) -> None:
    network, batch = network_and_batch(encoder)
    plain = gradients_of(network, batch)
    acting = set()
    for name, options in [(method, options) for method in REPORTING for options in OPTIONS[method]]:
        method, trainer = METHODS[name](**options), Trainer(network, batch, epoch=1)
        try:
            method.begin_training(trainer)
        except ValueError as error:
            assert encoder in ("transformer", "mlp") and "--modulated weights" in str(error)
            assert name in ("ogm", "ogm_ge") and not options
            continue
        method.begin_epoch(trainer)
        torch.manual_seed(2)
        arguments = method.before_forward(trainer, *batch)
        torch.manual_seed(1)
        outputs = network(batch[0], **arguments)
        joint, unimodal = losses_of(outputs, batch[1])
        encoders = dict(network.encoders.items())
        report = method.backward(joint, unimodal, encoders=encoders, outputs=outputs, labels=batch[1])
        actual = take_grads(network)
        for modality in MODALITIES:
            keys = [key for key in plain if key.startswith(f"encoders.{modality}.")]
            changed = any(float((actual[key] - plain[key]).norm()) > 1e-4 * float(plain[key].norm()) for key in keys)
            distance = abs(float(report.metrics[PREFIX + modality]) - NEUTRAL.get(name, 1.0))
            neutral = distance < 1e-3 * (options["alpha"] if name == "pmr" else 1)  # PMR's is a share of its α
            assert changed or neutral, (name, options, modality)
            acting |= set() if neutral else {name}
    assert acting == set(REPORTING)
