"""Replay against small checkouts, written here, with the interface of the released ones."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import replay
from mmpareto.analysis.replay import lockstep
from mmpareto.analysis.replay.lockstep import ReplayConditions, ReplayResult
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from mmpareto.training.recipes import recipe

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
IMPORTS = """
import argparse
import torch
import torch.nn as nn
import a_package_that_nobody_has.with_a_part as unused
from torch import optim
from torch.utils.data import DataLoader
from dataset.clips import Clips as {dataset}
from models.networks import Network

def get_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default={epochs})
    parser.add_argument("--learning_rate", type=float, default=0.002)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--fusion_method", default="concat")
    parser.add_argument("--lr_decay_step", default="[{milestone}]")
    parser.add_argument("--alpha", type=float, default=4.0)
    return parser.parse_args()

def valid(args, model, device, dataloader):
    raise AssertionError("not replaced")

def main():
    args = get_arguments()
    torch.manual_seed(args.random_seed)
    device = torch.device("cuda:0")
    model = Network(args).to(device)
    model = torch.nn.DataParallel(model, device_ids=list(range(torch.cuda.device_count()))).cuda()
    optimizer = optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9, weight_decay=1e-4)
    scheduler = optim.lr_scheduler.MultiStepLR(optimizer, eval(args.lr_decay_step), 0.1)
    loader = DataLoader({dataset}(mode="train"), batch_size=args.batch_size, shuffle=True)
    for epoch in range(args.epochs):
        open("written_by_the_script", "a").close()
        train_epoch(args, epoch, model, device, loader, optimizer, scheduler)
        valid(args, model, device, loader)
"""
MMPARETO_LOOP = """
from solver import MinNormSolver

def train_epoch(args, epoch, model, device, dataloader, optimizer, scheduler, writer=None):
    model.train()
    for audio, images, labels in dataloader:
        labels = labels.to(device)
        outputs = model(audio.to(device).float(), images.to(device).float())
        joint, *unimodal = (nn.CrossEntropyLoss()(logits, labels) for logits in outputs)
        integrated = []
        for net, loss in zip((model.module.audio_net, model.module.visual_net), unimodal):
            parameters = list(net.parameters())
            gradients = [torch.autograd.grad(l, parameters, retain_graph=True) for l in (joint, loss)]
            conflict = sum((m * u).sum() for m, u in zip(*gradients)) <= 0
            alpha = MinNormSolver.find_min_norm_element(gradients)[0] if conflict else (0.5, 0.5)
            for parameter, m, u in zip(parameters, *gradients):
                h = 2 * (alpha[0] * m + alpha[1] * u)
                h = h * max(1, (m + u).norm() / h.norm())
                integrated.append((parameter, h * 1.5))
        optimizer.zero_grad()
        sum(unimodal, joint).backward()
        for parameter, gradient in integrated:
            parameter.grad = gradient
        optimizer.step()
"""
SOLVER = """
class MinNormSolver:
    def find_min_norm_element(gradients):
        a, c, b = (sum((x * y).sum() for x, y in zip(gradients[i], gradients[j])) for i, j in ((0, 0), (0, 1), (1, 1)))
        return ((b - c) / (a + b - 2 * c), (a - c) / (a + b - 2 * c)), None
"""
DGL_LOOP = """
def train_epoch(args, epoch, model, device, dataloader, optimizer, scheduler, writer=None):
    scheduler.step()
    model.train()
    for audio, images, labels in dataloader:
        joint, *unimodal = (
            nn.CrossEntropyLoss()(logits, labels)
            for logits in model(audio.to(device).unsqueeze(1).float(), images.to(device).float())
        )
        optimizer.zero_grad()
        (args.alpha * sum(unimodal)).backward()
        for parameter in model.module.fusion_module.parameters():
            parameter.grad = None
        joint.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=40)
        optimizer.step()
"""
MMPARETO_NETWORK = """
import torch
from torch import nn
from tiny_encoder import TinyEncoder

class Network(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.audio_net, self.visual_net = TinyEncoder(1), TinyEncoder(3)
        self.head, self.head_audio, self.head_video = nn.Linear(16, 6), nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, audio, images):
        assert type(audio) is torch.Tensor and audio.dtype == torch.float64
        a, v = self.audio_net(audio), self.visual_net(images)
        return self.head(torch.cat([a, v], 1)), self.head_audio(a), self.head_video(v)
"""
DGL_NETWORK = """
import torch
from torch import nn
from tiny_encoder import TinyEncoder

class Fusion(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "concat":
            self.fc_out, self.fc_auxi = nn.Linear(16, 6), nn.Linear(16, 6)
            self.fc_out.weight.data.mul_(40)  # so that some gradients are clipped
        elif kind == "sum":
            self.fc_x, self.fc_y = nn.Linear(8, 6), nn.Linear(8, 6)
        elif kind == "film":
            self.fc, self.fc_out = nn.Linear(64, 8), nn.Linear(8, 6)
        elif kind == "gated":
            self.fc_x, self.fc_y, self.fc_out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, a, v):
        x, y = a.detach(), v.detach()
        if self.kind == "concat":
            logits = [torch.cat(pair, 1) for pair in ((x, y), (a, 0 * v), (0 * a, v))]
            return [self.fc_out(feature) for feature in logits]
        if self.kind == "sum":
            return self.fc_x(x) + self.fc_y(y), self.fc_x(a), self.fc_y(v)
        if self.kind == "film":
            products = [torch.einsum("bi,bj->bij", *pair).flatten(1) for pair in ((x, y), (a, a), (v, v))]
            return [self.fc_out(self.fc(product)) for product in products]
        a, v = self.fc_x(a), self.fc_y(v)
        gated = [(a.sigmoid() * v).detach(), a.sigmoid() * a, v.sigmoid() * v]
        return [self.fc_out(feature) for feature in gated]

class Network(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.audio_net, self.visual_net = TinyEncoder(1), TinyEncoder(3)
        self.fusion_module = Fusion(args.fusion_method)

    def forward(self, audio, images):
        return self.fusion_module(self.audio_net(audio), self.visual_net(images.transpose(1, 2)))
"""
CLIPS = """
class Clips:
    def __init__(self, mode):
        raise AssertionError("not replaced")
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep, "build_network", functools.partial(build_network, encoder="tiny"))


def write(folder: Path, script: str, source: str, network: str) -> Path:
    """Write a checkout; return its folder."""
    path = folder / script
    files = {path: source, path.parent / "solver.py": SOLVER}
    files |= {path.parent / "models/networks.py": network, path.parent / "dataset/clips.py": CLIPS}
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def mmpareto(folder: Path, old: str = "", new: str = "") -> Path:
    """A checkout like MMPareto's, with a part of its script replaced."""
    source = IMPORTS.format(dataset="AVDataset_CD", epochs=50, milestone=70) + MMPARETO_LOOP
    assert old in source
    return write(folder, "code/MMPareto.py", source.replace(old, new), MMPARETO_NETWORK)


def dgl(folder: Path, old: str = "", new: str = "", early: int = 0) -> Path:
    """A checkout like DGL's, with a part of its loop replaced, whose learning rate falls `early` epochs before ours.

    Its scheduler is stepped at the beginning of an epoch, so that the epoch of the milestone is the first lower one.
    """
    milestone = recipe("cremad", "dgl")["lr_decay_step"].value + 1 - early
    assert old in DGL_LOOP
    source = IMPORTS.format(dataset="CramedDataset", epochs=100, milestone=milestone) + DGL_LOOP.replace(old, new)
    return write(folder, "main_dgl.py", source, DGL_NETWORK)


def compare(folder: Path, **conditions: Any) -> ReplayResult:
    return lockstep.replay(folder, ReplayConditions(**{"steps": 24, "batch_size": 8, "image_size": 32} | conditions))


def largest(comparison: ReplayResult) -> float:
    return max(step.relative.size for step in comparison.steps)


def test_mmpareto_agrees_step_by_step(tmp_path: Path) -> None:
    comparison = compare(mmpareto(tmp_path))
    assert comparison.agrees and len(comparison.steps) == 24
    assert largest(comparison) < 1e-10
    for encoder in ("audio", "visual"):
        assert {step.theirs[f"conflict of {encoder}"] for step in comparison.steps} == {True, False}
    assert {name: theirs for name, (theirs, _) in comparison.settings.items()} == {
        "optimizer": "sgd", "learning_rate": 0.002, "momentum": 0.9, "weight_decay": 1e-4, "dampening": 0,
        "nesterov": False, "batch_size": 64, "epochs": 50,
    }  # fmt: skip
    assert [theirs for _, theirs, _ in comparison.rates] == [0.002] * 54


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_dgl_agrees_step_by_step(tmp_path: Path, fusion: str) -> None:
    comparison = compare(dgl(tmp_path), fusion=fusion)
    assert comparison.agrees and largest(comparison) < 1e-10
    if fusion == "concat":
        assert {step.theirs["clipping"] for step in comparison.steps} == {True, False}
    assert [round(theirs, 9) for _, theirs, _ in comparison.rates[-4:]] == [0.002, 0.002, 0.0002, 0.0002]
    assert ("frozen" in comparison.repository.note) == (fusion == "gated")


def test_a_boost_on_conflict_only_is_caught_at_the_first_step_without_one(tmp_path: Path) -> None:
    comparison = compare(mmpareto(tmp_path, "h * 1.5", "h * (1.5 if conflict else 1)"))
    first = next(step.step for step in comparison.steps if not all(step.theirs.values()))
    assert first > 1 and comparison.first_above is not None
    assert comparison.first_above.step == first
    assert comparison.steps[first - 2].relative.size < 1e-10
    assert not comparison.agrees


def test_a_loop_without_clipping_is_caught(tmp_path: Path) -> None:
    comparison = compare(dgl(tmp_path, "nn.utils.clip_grad_norm_(model.parameters(), max_norm=40)", "pass"))
    assert comparison.first_decision == (1, "clipping")
    assert comparison.first_above is not None and comparison.first_above.step == 1


def test_a_learning_rate_that_falls_an_epoch_earlier_is_caught(tmp_path: Path) -> None:
    comparison = compare(dgl(tmp_path, early=1))
    assert len(comparison.different_rates) == 2  # in the whole training, and in the replay
    assert comparison.first_above is not None and comparison.first_above.step == 13
    assert comparison.first_decision is None or comparison.first_decision[0] > comparison.first_above.step


def test_other_hyper_parameters_are_caught(tmp_path: Path) -> None:
    comparison = compare(mmpareto(tmp_path, "weight_decay=1e-4", "weight_decay=1e-3"), steps=1)
    assert comparison.different_settings == ["weight_decay 0.001 / 0.0001"]
    assert not comparison.agrees


def test_values_that_are_not_finite_end_the_replay(tmp_path: Path) -> None:
    comparison = compare(mmpareto(tmp_path, "h * 1.5", "h * float('nan')"))
    assert len(comparison.steps) == 1 and not comparison.agrees


def test_the_command_prints_the_first_difference_and_returns_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--steps", "24", "--batch_size", "8", "--image_size", "32", "--against"]
    assert replay.main([*words, str(mmpareto(tmp_path / "same"))]) == 0
    assert "decision differs: none" in capsys.readouterr().out
    assert replay.main([*words, str(dgl(tmp_path / "other", "max_norm=40", "max_norm=1e9"))]) == 1
    assert "decision differs: 1, clipping" in capsys.readouterr().out


def test_the_process_and_the_checkout_stay_as_they_were(tmp_path: Path) -> None:
    folder = mmpareto(
        tmp_path, "import argparse", "import argparse, os, sys; sys.path.append('x'); os.environ['X_']='1'"
    )
    state = lambda: ({*sys.modules}, [*sys.path], [*sys.argv], [*sys.meta_path], dict(os.environ), Path.cwd())  # noqa: E731
    compare(folder, steps=1)
    before, files = state(), {*folder.rglob("*")}
    compare(folder, steps=1)
    assert state() == before and {*folder.rglob("*")} == files
    assert not {name for name in sys.modules if name.startswith(("a_package_that_nobody_has", "MMPareto"))}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def valid", "def evaluate", "it has no valid"),
        ("optimizer, scheduler, writer", "optimiser, scheduler, writer", "no argument optimizer"),
        ('"--random_seed"', '"--seed"', "parser has no random_seed"),
        ('"--train"', '"--practise"', "does not take the arguments"),
        ("from solver import", "from models.solver import", "models.solver"),
        ("model.train()", "model.to_train()", "AttributeError"),
        ("in dataloader:", "in range(0):", "took 0 of 24 batches"),
        ("import torch\n", "import torch\n1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_another_interface_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(mmpareto(tmp_path, old, new))


def test_other_networks_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither script"):
        compare(tmp_path)
    folder = mmpareto(tmp_path)
    with pytest.raises(InputError, match="no fusion 'sum'"):
        compare(folder, fusion="sum")
    network = folder / "code/models/networks.py"
    network.write_text(
        network.read_text().replace("nn.Linear(8, 6), nn.Linear(8, 6)", "nn.Linear(8, 6), nn.Linear(8, 6, False)")
    )
    with pytest.raises(InputError, match=r"lacks our tensor heads\.visual\.bias"):
        compare(folder)
