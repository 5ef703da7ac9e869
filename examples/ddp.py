"""MMPareto under DistributedDataParallel: nothing to add, as gradients are averaged over the ranks by default.

Run `torchrun --nproc-per-node 2 examples/ddp.py`, on GPUs or on the CPU.
"""

import os
from typing import Any

import torch
from mmpareto import MMPareto
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

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
        return {"joint": joint, "unimodal": unimodal, "features": features}


def main() -> None:
    has_gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if has_gpus else "cpu")
    if has_gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if has_gpus else "gloo")
    torch.manual_seed(0)
    clips = make_clips(1024)
    sampler = DistributedSampler(clips)
    loader = DataLoader(clips, batch_size=32, sampler=sampler)

    model = DistributedDataParallel(Network().to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    integrate = MMPareto()
    # If a rank's batch may lack a modality, name the parameters, so that all ranks reduce the same ones:
    #     integrate.reduce = MeanReducer(model)  # from mmpareto; DDP's own way is find_unused_parameters=True
    #     integrate.backward(joint, unimodal, encoders=model.module.encoders)  # without the absent modality's loss

    for epoch in range(3):
        sampler.set_epoch(epoch)
        correct = torch.zeros((), device=device)
        for batch in loader:
            audio, visual, labels = (tensor.to(device) for tensor in batch)
            outputs = model(audio, visual)
            joint = cross_entropy(outputs["joint"], labels)  # mean over this rank's samples, as always under DDP
            unimodal = {name: cross_entropy(logits, labels) for name, logits in outputs["unimodal"].items()}

            optimizer.zero_grad()
            report = integrate.backward(joint, unimodal, outputs=outputs)  # the report is the same on all ranks
            optimizer.step()
            correct += (outputs["joint"].argmax(dim=1) == labels).sum()
        dist.all_reduce(correct)
        if dist.get_rank() == 0:
            cosines = ", ".join(f"{name} {float(encoder.cosine):+.2f}" for name, encoder in report.items())
            print(f"epoch {epoch + 1}: accuracy {correct / len(clips):.1%}; cosines of the last step: {cosines}")

    weights = parameters_to_vector(model.parameters()).detach()
    of_rank0 = weights.clone()
    dist.broadcast(of_rank0, src=0)
    if not torch.equal(weights, of_rank0):
        raise RuntimeError(f"rank {dist.get_rank()} has other weights than rank 0")
    print(f"rank {dist.get_rank()} of {dist.get_world_size()} has the weights of rank 0")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
