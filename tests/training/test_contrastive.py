"""Contrastive pre-training: its losses, its views, what a run computes, and what it refuses."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import evaluate
import mmpareto
import pytest
import torch
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.measured import open_run
from mmpareto.data.loading.batches import Batch, Shard
from mmpareto.errors import InputError
from mmpareto.integration.comparisons import info_nce
from mmpareto.training import loop
from mmpareto.training.contrastive import nt_xent
from mmpareto.training.run import make_trainer
from mmpareto.training.settings import parse
from mmpareto.training.summary import final_metrics, summary_text
from mmpareto.training.views import CROP_AREA, MASKED_ENTRIES, two_views
from prepared_clips import write_prepared
from tiny_runs import acting, arguments, assert_same, assert_same_run, metrics, read, resume, run, send_signal
from torch import Tensor

CONTRASTIVE = ("--objective", "contrastive", "--encoder", "plain")
PROBED = ("--probe_every", "2", "--amp", "bf16")
Loss = Callable[[Tensor, Tensor, float], Tensor]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=6, prepared={})


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of pre-training."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    assert run(data, folder, *CONTRASTIVE, *PROBED) == 0
    return folder


# The losses


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    dot, aa, bb = (sum(x * y for x, y in zip(p.tolist(), q.tolist(), strict=True)) for p, q in ((a, b), (a, a), (b, b)))
    return dot / math.sqrt(aa * bb)


def literal_info_nce(first: Tensor, second: Tensor, temperature: float) -> float:
    total = 0.0
    for a, b in ((first, second), (second, first)):
        for i in range(len(a)):
            scores = [math.exp(cosine(a[i], b[j]) / temperature) for j in range(len(b))]
            total -= math.log(scores[i] / sum(scores)) / (2 * len(a))
    return total


def literal_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    views, total = [*first, *second], 0.0
    for i in range(len(views)):
        scores = {j: math.exp(cosine(views[i], views[j]) / temperature) for j in range(len(views)) if j != i}
        total -= math.log(scores[(i + len(first)) % len(views)] / sum(scores.values())) / len(views)
    return total


@pytest.mark.parametrize(("loss", "literal"), [(info_nce, literal_info_nce), (nt_xent, literal_nt_xent)])
def test_the_losses_are_those_of_a_double_loop(loss: Loss, literal: Callable[..., float]) -> None:
    first, second = rows(5, 0), rows(5, 1)
    for temperature in (0.07, 0.5):
        assert loss(first, second, temperature).item() == pytest.approx(literal(first, second, temperature), rel=1e-10)
        assert loss(second, 3 * first, temperature).item() == pytest.approx(literal(first, second, temperature))


@pytest.mark.parametrize(("loss", "others"), [(info_nce, 3), (nt_xent, 6)])  # of 4 samples: the negatives of a view
def test_closed_forms(loss: Loss, others: int) -> None:
    orthogonal, same = torch.eye(4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)
    expected = math.log(1 + others * math.exp(-1 / 0.07))  # positives have cosine 1, negatives 0
    assert loss(orthogonal, orthogonal, 0.07).item() == pytest.approx(expected, rel=1e-9)
    assert loss(same, same, 0.07).item() == pytest.approx(math.log(1 + others))  # nothing is told apart
    assert loss(same[:1], same[:1], 0.07).item() == 0  # no negatives


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_gradients_are_finite_differences(loss: Loss) -> None:
    given = [rows(3, seed).requires_grad_() for seed in (2, 3)]
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, 0.3), given)


def test_half_precision_is_widened() -> None:
    first, second = rows(5, 0).bfloat16(), rows(5, 1).bfloat16()
    assert torch.equal(info_nce(first, second, 0.07), info_nce(first.float(), second.float(), 0.07))


# Views


def inputs(samples: int = 6) -> dict[str, Tensor]:
    shapes = {"map": (1, 12, 9), "image": (3, 10, 10), "clip": (2, 3, 8, 8), "sequence": (7, 5), "vector": (40,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(samples, *shape, generator=generator) + 1 for name, shape in shapes.items()}


def test_views_are_functions_of_the_seeds_and_of_a_samples_number() -> None:
    given = inputs()
    views = two_views(given, {"image", "clip"}, 6, (0, 1, 2))
    assert_same(views, two_views(given, {"image", "clip"}, 6, (0, 1, 2)))
    others = two_views(given, {"image", "clip"}, 6, (0, 1, 3))
    for name, view in views.items():
        assert view.shape == (12, *given[name].shape[1:]) and not torch.equal(view, others[name])
        pairs = view.unflatten(0, (6, 2))
        assert all(not torch.equal(first, second) for first, second in pairs)
    for rank in range(3):  # of three processes
        own = {name: x[rank::3] for name, x in given.items()}
        part = two_views(own, {"image", "clip"}, 6, (0, 1, 2), Shard(rank, 3))
        assert all(torch.equal(x, views[name].unflatten(0, (6, 2))[rank::3].flatten(0, 1)) for name, x in part.items())


def test_a_view_is_a_crop_of_its_sample() -> None:
    """Coordinates as an image: a crop is linear in each, of a slope that its area gives, and lies within the image."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    views = two_views({"clip": torch.stack([x, y]).expand(40, 2, 2, 32, 32)}, {"clip"}, 40, (0,))["clip"]
    assert torch.equal(views[:, 0], views[:, 1])  # all frames alike
    assert views.min() >= 0 and views.max() <= 31
    areas = []
    for across, down in views[:, 0]:
        steps = [across.diff(dim=1), down.diff(dim=0)]
        width, height = (step.median() for step in steps)  # most of the image is not erased
        assert all((abs(step - step.median()) < 1e-4).double().mean() > 0.6 for step in steps)
        areas.append(float(width * height))
    assert CROP_AREA[0] - 0.02 < min(areas) < 0.55 and 0.8 < max(areas) <= CROP_AREA[1] + 1e-5


def test_what_is_masked_is_neutral() -> None:
    given = inputs(50)
    views = two_views(given, (), 50, (0,))
    sequence = views["sequence"]
    assert torch.equal(sequence[..., -1], given["sequence"][..., -1].repeat_interleave(2, 0))  # the padding mask
    masked = {name: views[name] == 0 for name in ("sequence", "vector")}
    kept = given["vector"].repeat_interleave(2, 0)
    assert torch.equal(views["vector"], torch.where(masked["vector"], 0.0, kept))
    assert masked["vector"].double().mean() == pytest.approx(MASKED_ENTRIES, abs=0.03)
    assert 0.02 < masked["sequence"].double().mean() < 0.35
    constant = torch.full((4, 1, 9, 9), 2.5)  # the mean of a constant map is its value
    assert torch.allclose(two_views({"map": constant}, (), 4, (0,))["map"], torch.tensor(2.5))


# Runs


def test_labels_are_not_used(data: Path, tmp_path: Path) -> None:
    """Training on all samples; the split and the probes are what labels are read for."""
    lines = (data / "train.csv").read_text().splitlines()
    weights = []
    for shift in (0, 5):
        labels = [line.partition(",")[2] for line in lines]
        relabelled = zip(lines, [*labels[shift:], *labels[:shift]], strict=True)
        (data / "train.csv").write_text("".join(f"{line.partition(',')[0]},{label}\n" for line, label in relabelled))
        folder = tmp_path / str(shift)
        assert run(data, folder, *CONTRASTIVE, "--protocol", "paper", "--method", "pcgrad", "--no_probe") == 0
        weights.append(read(folder / "last.pt")["model"])
        (data / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    assert_same(*weights)


def test_resume_is_bit_identical(data: Path, pretrained: Path, tmp_path: Path) -> None:
    with acting(loop.Trainer, "step", 6, send_signal):  # in epoch 2 of four steps
        assert run(data, tmp_path / "run", *CONTRASTIVE, *PROBED) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", pretrained)


def test_a_step_has_the_gradients_of_the_two_losses(data: Path, tmp_path: Path) -> None:
    """The sum of L_m and all L_u, computed here from two forward passes, one per view."""
    trainer = make_trainer(
        parse(arguments(data, tmp_path / "run", *CONTRASTIVE, "--method", "uniform", "--optimizer", "sgd")).settings
    )
    trainer.network.double()
    batch, samples = next(trainer._batches())
    batch = Batch({name: x.double() for name, x in batch.inputs.items()}, batch.labels, batch.indices)
    views = two_views(batch.inputs, {"visual"}, samples, (0, 1, 1))
    outputs = [trainer.network({name: x[view::2] for name, x in views.items()}) for view in range(2)]
    joint = sum(info_nce(*out.joint.unbind(1), 0.07) / 2 for out in outputs)
    unimodal = sum(nt_xent(outputs[0].unimodal[name], outputs[1].unimodal[name], 0.07) for name in ("audio", "visual"))
    parameters = dict(trainer.network.named_parameters())
    gradients = torch.autograd.grad(joint + unimodal, [*parameters.values()])
    expected = dict(zip(parameters, gradients, strict=True))
    trainer._forward_backward(batch, 1, samples, None)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_exchanging_the_modalities_exchanges_nothing_in_the_joint_loss(data: Path, tmp_path: Path) -> None:
    settings = parse(arguments(data, tmp_path / "run", *CONTRASTIVE)).settings
    objective = make_trainer(settings).objective
    joint = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0))  # three modalities
    losses = {
        order: objective.losses(mmpareto.models.network.Outputs(joint[:, order], {}, {}, {}), torch.zeros(4), 4).joint
        for order in itertools.permutations(range(3))
    }
    assert torch.stack([*losses.values()]).std() < 1e-6


def test_metrics_and_summary_say_that_accuracies_are_probes(pretrained: Path) -> None:
    first, second = metrics(pretrained)
    assert first["acc"] is first["acc_audio"] is None and 0 <= second["acc"] <= 1  # --probe_every 2
    assert all(isinstance(line[key], float) for line in (first, second) for key in ("loss", "val_loss", "train_loss"))
    assert "train_acc" not in first and "val_acc" not in first
    summary = json.loads((pretrained / "summary.json").read_text())
    best = min((first, second), key=lambda line: line["val_loss"])
    assert summary["best_val"]["epoch"] == best["epoch"] and summary["best_val"]["loss"] == best["loss"]
    assert summary["last"]["acc"] == second["acc"] and "linear probes" in summary["unimodal_note"]


def test_a_summary_shows_an_epoch_without_probes() -> None:
    """That of the smallest test loss has none, and of labels other than classes it lacks the main metric."""
    losses = {"objective": "contrastive", "loss": 1.0, "acc": None, "acc_audio": None}
    probed = losses | {"epoch": 2, "exact_match": 0.25, "map": 0.5, "map_audio": 0.375}
    summary = {"name": "run", "data": {"clips": {"test": 4}}, "last": probed, "best_val": probed}
    summary |= {"best_test": losses | {"epoch": 1}}
    assert final_metrics(summary) == {"final/map/last": 0.5, "final/map/best_val": 0.5}
    lines = summary_text(summary, ["audio"]).splitlines()[2:]
    assert [line.split()[-3:] for line in lines] == [["2", "50.00", "37.50"]] * 2 + [["1", "–", "–"]]


def test_a_pretrained_checkpoint_classifies_by_its_probes(pretrained: Path) -> None:
    trained = mmpareto.load(pretrained / "last.pt")
    probe = read(pretrained / "last.pt")["probe"]
    outputs = trained.model({"audio": torch.randn(2, 1, 64, 128), "visual": torch.randn(2, 1, 3, 24, 24)})
    both = torch.cat([outputs.features["audio"], outputs.features["visual"]], dim=1)
    torch.testing.assert_close(outputs.joint, both @ probe["joint"]["weight"].T + probe["joint"]["bias"])
    alone = outputs.features["audio"] @ probe["audio"]["weight"].T + probe["audio"]["bias"]
    torch.testing.assert_close(outputs.unimodal["audio"], alone)


def test_evaluation_has_the_accuracies_of_the_summary(pretrained: Path) -> None:
    """In bf16, too: the probes are applied in full precision."""
    assert evaluate.main([str(pretrained / "last.pt"), "--gpu_ids", "cpu"]) == 0
    measured = json.loads((pretrained / "evaluation-test-last" / "metrics.json").read_text())
    last = json.loads((pretrained / "summary.json").read_text())["last"]
    keys = ("acc", "acc_audio", "auroc", "auroc_visual", "map")
    assert {key: measured[key] for key in keys} == {key: last[key] for key in keys}


def test_plots_that_measure_the_joint_loss_refuse_it(pretrained: Path) -> None:
    """What they could measure is the loss of the probes, which nothing was trained on."""
    with pytest.raises(InputError, match="pre-trained without labels"):
        open_run(FinishedRun(pretrained), "last.pt", torch.device("cpu"))


def test_a_supervised_run_starts_from_the_encoders(
    data: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = arguments(
        data, tmp_path / "run", "--encoder", "plain", "--pretrained", f"{pretrained}/last.pt", "--train_fraction", "0.4"
    )
    trainer = make_trainer(parse(line).settings)
    weights = read(pretrained / "last.pt")["model"]
    encoders = {name: tensor for name, tensor in trainer.network.state_dict().items() if name.startswith("encoders.")}
    assert_same(encoders, {name: weights[name] for name in encoders})
    assert "audio starts from" in (notes := capsys.readouterr().out) and "visual starts from" in notes
    assert "not used" in notes
    assert trainer.data.record["clips"]["train"] == 6 == len(trainer.data.train)  # of 15, 40% of each of 3 classes
    assert trainer.data.record["available"]["train"] == 15


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("--method ogm", "compares classes"),
        ("--method agm", "compares classes"),
        ("--method cggm", "reads labels"),
        ("--method gblending", "trains copies on labels"),
        ("--method ensemble", "needs the fusion 'average'"),
        ("--method greedy --encoder tiny", "exchange information"),
        ("--method unimodal --modality audio", "reads audio alone"),
        ("--fusion sum", "leave --fusion out"),
        ("--accumulate 2", "which --accumulate would split"),
        ("--batch_size 1", "--batch_size must be at least 2"),
    ],
)
def test_what_does_not_go_with_it_is_refused(more: str, reason: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason) as error:
        make_trainer(parse(arguments(data, tmp_path / "run", *CONTRASTIVE, *more.split())).settings)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_without_probes_a_checkpoint_cannot_classify(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", *CONTRASTIVE, "--no_probe", "--epochs", "1") == 0
    with pytest.raises(InputError, match="no linear probes"):
        mmpareto.load(tmp_path / "run")
    assert resume(tmp_path / "run", "--no_probe", "false") == 0
    assert mmpareto.load(tmp_path / "run").unimodal_heads == "probe"
