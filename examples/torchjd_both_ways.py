"""TorchJD's aggregators through this package, and MMPareto as a weighting in TorchJD; both ways give equal gradients.

Run `python examples/torchjd_both_ways.py` after `pip install "torchjd[quadprog_projector]"`.
"""

import torch
from mmpareto import METHODS, Method, MMPareto, Report
from mmpareto.integration.min_norm import min_norm_weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchjd.aggregation import Aggregator, GramianWeightedAggregator, UPGrad, Weighting
from torchjd.autojac import jac_to_grad, mtl_backward
from torchjd.linalg import PSDMatrix

CLASSES = 6


class MMParetoWeighting(Weighting[PSDMatrix]):
    """Weights of MMPareto's paper from the Gramian of an encoder's gradients, for TorchJD's autojac."""

    def __init__(self, gamma: float = 1.5) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, gramian: Tensor, /) -> Tensor:
        reaches = (gramian.diagonal() > 0).to(gramian)  # 0 for the other modalities' losses
        if not bool((gramian < 0).any()):
            return reaches  # no conflict: the plain sum
        weights = reaches.sum() * min_norm_weights(gramian, skip_zero=True)
        magnitude = (gramian.sum() / (weights @ gramian @ weights)).sqrt()  # λ = ‖Σ gᵢ‖ / ‖Σ wᵢ gᵢ‖
        return self.gamma * magnitude.clamp(min=1) * weights


class Network(nn.Module):
    """One encoder per modality, fusion by concatenation, and one more head per modality for the unimodal losses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": nn.Linear(20, 32), "visual": nn.Linear(30, 32)})
        self.heads = nn.ModuleDict({"audio": nn.Linear(32, CLASSES), "visual": nn.Linear(32, CLASSES)})
        self.fusion = nn.Linear(64, CLASSES)

    def losses(self, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Joint loss, unimodal losses, and the encoders' outputs."""
        features = {name: encoder(inputs[name]).relu() for name, encoder in self.encoders.items()}
        joint = cross_entropy(self.fusion(torch.cat([*features.values()], dim=1)), labels)
        unimodal = {name: cross_entropy(head(features[name]), labels) for name, head in self.heads.items()}
        return joint, unimodal, features


def step_here(network: Network, batch: tuple[dict[str, Tensor], Tensor], method: Method) -> Report:
    """One call: encoders learn from the joint and their own loss; fusion and heads receive the plain sum."""
    network.zero_grad()
    joint, unimodal, features = network.losses(*batch)
    return method.backward(joint, unimodal, features=features)


def step_there(network: Network, batch: tuple[dict[str, Tensor], Tensor], aggregator: Aggregator) -> None:
    """TorchJD's two calls: Jacobians of all losses, then one aggregation per encoder."""
    network.zero_grad()
    joint, unimodal, features = network.losses(*batch)
    mtl_backward([joint, *unimodal.values()], features=[*features.values()])
    for encoder in network.encoders.values():
        jac_to_grad(encoder.parameters(), aggregator)


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]


def main() -> None:
    torch.manual_seed(0)
    network = Network().double()
    inputs = {"audio": torch.randn(64, 20).double(), "visual": torch.randn(64, 30).double()}
    batch = inputs, torch.randint(CLASSES, (64,))

    # MMPareto is a method here and, by its weighting, an aggregator there.
    report = step_here(network, batch, MMPareto.paper())
    here = gradients(network)
    step_there(network, batch, GramianWeightedAggregator(MMParetoWeighting()))
    torch.testing.assert_close(gradients(network), here)
    for name, encoder in report.items():
        weights = ", ".join(f"{weight:.3f}" for weight in encoder.weights[0].tolist())
        print(f"MMPareto at {name}: cosine {float(encoder.cosine):+.3f}, weights {weights}; equal gradients")

    # Every aggregator there is a method here. UPGrad averages over its rows: two here, joint and unimodal, three there.
    step_here(network, batch, METHODS["torchjd:UPGrad"]())
    here = gradients(network.encoders)
    step_there(network, batch, UPGrad())
    torch.testing.assert_close([gradient * 3 / 2 for gradient in gradients(network.encoders)], here)
    print("UPGrad: equal gradients")


if __name__ == "__main__":
    main()
