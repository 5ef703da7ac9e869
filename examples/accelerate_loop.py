"""MMPareto with Hugging Face Accelerate: gradient accumulation, checkpoints, two processes.

Run `torchrun --nproc-per-node 2 examples/accelerate_loop.py`; on GPUs, `accelerate launch` works too.
"""

import contextlib
import sys
import tempfile
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
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


class Network(nn.Module):
    """One encoder per modality, fusion by concatenation, and one more head per modality for the unimodal losses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": nn.Linear(20, 32), "visual": nn.Linear(30, 32)})
        self.heads = nn.ModuleDict({"audio": nn.Linear(32, CLASSES), "visual": nn.Linear(32, CLASSES)})
        self.fusion = nn.Linear(64, CLASSES)

    def forward(self, audio: Tensor, visual: Tensor) -> dict[str, Any]:
        features = {"audio": self.encoders["audio"](audio).relu(), "visual": self.encoders["visual"](visual).relu()}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        joint = self.fusion(torch.cat([*features.values()], dim=1))
        return {"joint": joint, "unimodal": unimodal}


def main(method: str = "mmpareto") -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=not torch.cuda.is_available())
    steps = accelerator.gradient_accumulation_steps
    set_seed(0)
    clips = make_clips(1024)
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = DataLoader(clips, batch_size=16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    integrate = METHODS[method]()
    accelerator.register_for_checkpointing(integrate)
    encoders = accelerator.unwrap_model(model).encoders  # named: in mixed precision, the outputs are float32 copies

    for epoch in range(1, 4):
        correct = torch.zeros((), device=accelerator.device)
        for audio, visual, labels in loader:
            with accelerator.accumulate(model):
                outputs = model(audio, visual)
                # accelerator.backward divides by the number of micro-batches; here, the losses are divided.
                joint = cross_entropy(outputs["joint"], labels) / steps
                unimodal = {name: cross_entropy(x, labels) / steps for name, x in outputs["unimodal"].items()}

                # All micro-batches but the last are only stored; the last call integrates their sum.
                is_last = accelerator.sync_gradients
                with contextlib.nullcontext() if is_last else integrate.accumulate():
                    integrate.backward(joint, unimodal, encoders=encoders, scale=accelerator.scaler)
                optimizer.step()  # Accelerate skips this and the next call for all micro-batches but the last
                optimizer.zero_grad()
            correct += (outputs["joint"].argmax(dim=1) == labels).sum()
        accelerator.print(f"epoch {epoch}: accuracy {accelerator.reduce(correct) / len(clips):.1%}")

    with tempfile.TemporaryDirectory() as folder:  # of rank 0, for all ranks
        accelerator.save_state(broadcast_object_list([folder])[0])
        accelerator.load_state(broadcast_object_list([folder])[0])
        accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
