"""The training loop compared with one written by hand: autograd, momentum, weight decay, schedule, clipping."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmpareto.data.loading.batches import EpochOrder
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork, Outputs
from mmpareto.training.distributed import Processes
from mmpareto.training.losses import losses
from mmpareto.training.meters import Meter
from prepared_clips import open_clips, write_prepared
from tiny_runs import metrics, read, run, trainer_of
from torch import Tensor

BATCH, RATE, MOMENTUM, DECAY = 4, 0.05, 0.9, 0.01


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=10, test=4)


def batches(data: Path, epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Batches of an epoch, assembled clip by clip; the last one has two clips."""
    clips = open_clips(
        data, "train", training=True, seed=3, frames=1, image_size=24, audio_frames=64, crop_scale=(0.08, 1)
    )
    order = EpochOrder(len(clips), seed=3)
    order.set_epoch(epoch)
    keys = list(order)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for start in range(0, len(keys), BATCH):
        samples = [clips[key] for key in keys[start : start + BATCH]]
        audio = torch.stack([sample.inputs["audio"] for sample in samples])
        turned = [
            torch.stack([image.flip(2) if flip else image for image, flip in zip(images, flips, strict=True)])
            for images, flips in ((sample.inputs["visual"], sample.flips["visual"]) for sample in samples)
        ]
        visual = torch.stack([(images / 255 - mean) / std for images in turned])
        yield {"audio": audio, "visual": visual}, torch.tensor([sample.label for sample in samples])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of −log softmax at the label, by definition."""
    return -torch.stack([row[label] - row.exp().sum().log() for row, label in zip(logits, labels, strict=True)]).mean()


def initial(encoder: str = "tiny") -> MultimodalNetwork:
    torch.manual_seed(3)
    return build_network({"audio": 1, "visual": 3}, 3, encoder=encoder)


def by_hand(
    data: Path, method: str, *, decay_every: int | None = None, clip: float | None = None
) -> tuple[MultimodalNetwork, list[float]]:
    """Train for two epochs; return the network and each epoch's mean joint loss per sample."""
    network = initial()
    trained = [(n, p) for n, p in network.named_parameters() if method == "uniform" or not n.startswith("heads.")]
    velocity: dict[str, Tensor] = {}
    means = []
    for epoch in (1, 2):
        rate = RATE * (0.1 ** ((epoch - 1) // decay_every) if decay_every else 1)
        total = 0.0
        for inputs, labels in batches(data, epoch):
            outputs = network(inputs)
            loss = cross_entropy(outputs.joint, labels)
            total += loss.item() * len(labels)
            if method == "uniform":
                loss = loss + sum(cross_entropy(logits, labels) for logits in outputs.unimodal.values())
            gradients = torch.autograd.grad(loss, [p for _, p in trained])
            if clip is not None:
                norm = torch.cat([g.flatten() for g in gradients]).norm()
                gradients = [g * min(1.0, clip / norm.item()) for g in gradients]
            with torch.no_grad():
                for (name, p), g in zip(trained, gradients, strict=True):
                    velocity[name] = MOMENTUM * velocity.get(name, torch.zeros_like(p)) + g + DECAY * p
                    p -= rate * velocity[name]
        means.append(total / 10)
    return network, means


@pytest.mark.parametrize(
    ("method", "more", "options"),
    [
        ("uniform", "", {}),
        ("joint", "", {}),
        ("uniform", "--scheduler step --lr_decay_step 1 --lr_decay_ratio 0.1", {"decay_every": 1}),
        ("uniform", "--clip_grad 0.2", {"clip": 0.2}),
        ("joint", "--clip_grad 0.2", {"clip": 0.2}),
        ("joint", "--clip_grad 1000", {}),
        ("uniform", "--lr_decay_step 1 --lr_decay_ratio 0.1", {}),  # no effect without the scheduler
    ],
)
def test_two_epochs_equal_a_loop_written_by_hand(
    method: str, more: str, options: dict[str, float], data: Path, tmp_path: Path
) -> None:
    line = f"--protocol paper --random_seed 3 --weight_decay {DECAY} --method {method} {more}"
    assert run(data, tmp_path, *line.split()) == 0
    expected, means = by_hand(data, method, **options)  # type: ignore[arg-type]
    result = read(tmp_path / "last.pt")["model"]
    untouched = initial().state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-4, atol=1e-5)
        trained = method == "uniform" or not name.startswith("heads.")
        assert torch.equal(result[name], untouched[name]) is not trained, name
    assert [line["train_loss"] for line in metrics(tmp_path)] == pytest.approx(means, abs=1e-5)
    rates = [RATE, RATE * (0.1 if "decay_every" in options else 1)]
    assert [line["learning_rate"] for line in metrics(tmp_path)] == pytest.approx(rates)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_and_adamw_are_pytorchs(name: str, kind: type[torch.optim.Optimizer], data: Path, tmp_path: Path) -> None:
    # No BatchNorm: the gradient of a bias before it is rounding only, which Adam would scale to a full step.
    line = f"--protocol paper --random_seed 3 --weight_decay {DECAY} --method uniform --optimizer {name} --epochs 1"
    trainer = trainer_of(data, tmp_path, *line.split(), "--encoder", "plain")
    trainer.fit()
    network = initial("plain")
    optimizer = kind(network.parameters(), lr=RATE, weight_decay=DECAY)  # type: ignore[call-arg]
    for inputs, labels in batches(data, 1):
        outputs = network(inputs)
        unimodal = sum(cross_entropy(logits, labels) for logits in outputs.unimodal.values())
        optimizer.zero_grad()
        (cross_entropy(outputs.joint, labels) + unimodal).backward()
        optimizer.step()
    torch.testing.assert_close(dict(trainer.network.state_dict()), dict(network.state_dict()), rtol=1e-3, atol=1e-4)


def test_losses_are_cross_entropies_per_modality() -> None:
    labels = torch.tensor([0, 2, 1, 1])
    logits = {name: torch.randn(4, 3, dtype=torch.float64) for name in ("joint", "text", "flow", "touch")}
    result = losses(Outputs(logits["joint"], {n: z for n, z in logits.items() if n != "joint"}, {}, {}), labels)
    torch.testing.assert_close(result.joint, cross_entropy(logits["joint"], labels))
    assert list(result.unimodal) == ["text", "flow", "touch"]
    for name, loss in result.unimodal.items():
        torch.testing.assert_close(loss, cross_entropy(logits[name], labels))


def test_epoch_means_are_weighted_by_samples() -> None:
    meter = Meter()
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(0.1)}, weight=4)
    meter.add({"a": torch.tensor(4.0), "b": torch.tensor(0.4)}, weight=2)
    assert meter.means() == pytest.approx({"a": 2.0, "b": 0.2})
    again = Meter()
    again.load_state_dict(meter.state_dict(), torch.device("cpu"))
    assert again.means() == meter.means() and again.weight == 6
    assert Meter().means() == {}


def test_skipped_steps_are_left_out_of_the_means() -> None:
    meter = Meter()
    for cosine, norm in ((float("nan"), float("inf")), (0.5, float("inf")), (-1.0, float("inf"))):
        meter.add({"loss": torch.tensor(1.0), "cosine": torch.tensor(cosine), "norm": torch.tensor(norm)}, weight=4)
    means = meter.means()
    assert (means["loss"], means["cosine"], meter.weight) == (1.0, -0.25, 12)
    assert means["norm"] != means["norm"]  # NaN: it was finite at no step


def test_a_metric_that_some_steps_lack_is_averaged_over_the_others() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0)}, weight=4)
    meter.add({"rate": torch.tensor(0.5), "loss": torch.tensor(4.0)}, weight=2)
    meter.add({"loss": torch.tensor(2.0)}, weight=6)
    assert meter.means() == pytest.approx({"loss": 2.0, "rate": 0.5}) and meter.weight == 12


def test_gradients_are_freed_and_modes_are_set(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, "--epochs", 1)
    modes = []
    trainer.network.register_forward_hook(lambda module, inputs, outputs: modes.append(module.training))
    trainer.fit()
    assert all(p.grad is None for p in trainer.network.parameters())
    # 7 training, 4 test and 3 validation clips in batches of 4.
    assert modes == [True, True, False, False]


def test_each_micro_batch_and_turn_draws_random_numbers_of_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(data, tmp_path, "--epochs", 1, "--method", "mla", "--accumulate", 2)
    seeds, draw = [], Processes.per_rank_rng
    monkeypatch.setattr(Processes, "per_rank_rng", lambda *own: (seeds.append(own[2:]), draw(*own))[1])
    trainer.fit()
    assert len(seeds) == len(set(seeds)) == 8  # two steps with two turns of two micro-batches
