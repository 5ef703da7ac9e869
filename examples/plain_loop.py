"""MMPareto in a plain training loop: `integrate.backward(…)` replaces `loss.backward()`.

Run `python examples/plain_loop.py`, or with another method: `python examples/plain_loop.py gradnorm`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmpareto import METHODS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 6


def make_clips(count: int) -> TensorDataset:
    """Audio features, video features and labels; video is the noisier one."""
    labels = torch.randint(CLASSES, (count,))
    audio = torch.randn(CLASSES, 20)[labels] + 2 * torch.randn(count, 20)
    visual = torch.randn(CLASSES, 30)[labels] + 4 * torch.randn(count, 30)
    return TensorDataset(audio, visual, labels)


def make_encoder(size: int) -> nn.Module:
    """Encoder of one modality."""
    return nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())


class Network(nn.Module):
    """One encoder per modality, fusion by concatenation, and one more head per modality for the unimodal losses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": make_encoder(20), "visual": make_encoder(30)})
        self.heads = nn.ModuleDict({"audio": nn.Linear(32, CLASSES), "visual": nn.Linear(32, CLASSES)})
        self.fusion = nn.Linear(64, CLASSES)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        features = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        joint = self.fusion(torch.cat([*features.values()], dim=1))
        return {"joint": joint, "unimodal": unimodal, "features": features}


def main(method: str = "mmpareto") -> None:
    torch.manual_seed(0)
    loader = DataLoader(make_clips(1024), batch_size=64, shuffle=True)
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    integrate = METHODS[method]()  # the same as MMPareto(), from mmpareto import MMPareto

    for epoch in range(1, 6):
        correct = 0
        conflicts = {name: torch.zeros(()) for name in model.encoders}
        for audio, visual, labels in loader:
            outputs = model({"audio": audio, "visual": visual})
            joint = cross_entropy(outputs["joint"], labels)
            unimodal = {name: cross_entropy(logits, labels) for name, logits in outputs["unimodal"].items()}

            optimizer.zero_grad()
            # outputs["features"] tells which parameters each encoder has, and saves memory.
            report = integrate.backward(joint, unimodal, outputs=outputs, labels=labels)
            if not report.all_finite:
                raise FloatingPointError(f"epoch {epoch}: {report.losses} are finite: {report.finite.tolist()}")
            optimizer.step()

            correct += int((outputs["joint"].argmax(dim=1) == labels).sum())
            for name, encoder in report.items():
                conflicts[name] += encoder.conflict.float().mean()  # share of the encoder's tensors in conflict
        rates = ", ".join(f"{name} {float(total) / len(loader):.0%}" for name, total in conflicts.items())
        print(f"epoch {epoch}: accuracy {correct / 1024:.1%}; gradients in conflict: {rates}")

    # A method's state belongs in the checkpoint, beside the optimizer's. MMPareto has none, but gradnorm has.
    parts = {"model": model, "optimizer": optimizer, "method": integrate}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save({name: part.state_dict() for name, part in parts.items()}, path)
        for name, state in torch.load(path, weights_only=True).items():
            parts[name].load_state_dict(state)


if __name__ == "__main__":
    main(*sys.argv[1:])
