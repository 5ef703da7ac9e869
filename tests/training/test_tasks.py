"""Several tasks on one encoder, from the command line to the report."""

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
import train
from mmpareto import METHODS
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.groups import group_runs
from mmpareto.analysis.plots.training_curves import accuracy_plot, conflict_plot, magnitude_plot, weights_plot
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.tables.cells import Outcome, make_cells
from mmpareto.analysis.tables.definitions import TABLES, Column
from mmpareto.analysis.trained import load
from mmpareto.data.multimnist import MultiMNIST
from mmpareto.errors import InputError
from mmpareto.integration.reference import mmpareto_step
from mmpareto.models.building import build_network
from mmpareto.models.lenet import LeNet
from mmpareto.models.network import Outputs
from mmpareto.training.loop import Trainer
from mmpareto.training.losses import head_labels
from mmpareto.training.run import make_trainer
from mmpareto.training.settings import parse
from processes import in_processes
from test_cgmnist import digits, write_mnist
from tiny_runs import acting, assert_same_run, metrics, read, resume, send_signal
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy

SMALL = "--dataset multimnist --gpu_ids cpu --workers 0 --use_tensorboard false --batch_size 30 --epochs 1"
OPTIONS = {"unimodal": ("--task", "top_right")}
Folders = dict[int, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Number of tasks → prepared folder of 60 and 40 images."""
    folder = tmp_path_factory.mktemp("data")
    raw = write_mnist(folder / "raw", digits())
    for count in (2, 3):
        MultiMNIST.prepare(raw=raw, out=folder / str(count), digits=count)
    return {count: folder / str(count) for count in (2, 3)}


def words(data: Path, folder: Path | None, *more: object) -> list[str]:
    return [
        *SMALL.split(),
        "--data",
        str(data),
        *([] if folder is None else ["--ckpt_path", str(folder)]),
        *map(str, more),
    ]


def trainer_of(data: Path, *more: object) -> Any:
    return make_trainer(parse([*words(data, None), *map(str, more)]).settings)


@pytest.fixture(scope="module")
def run(data: Folders, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains once per choice of flags."""
    known: dict[tuple[Any, ...], Path] = {}

    def trained(count: int, *more: str) -> Path:
        key = (count, *more)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("runs") / "run"
            assert train.main(words(data[count], known[key], *more)) == 0
        return known[key]

    return trained


def steps_gradient(trainer: Any) -> dict[str, Tensor]:
    """The `.grad` that one step leaves, by parameter."""
    gradients: dict[str, Tensor] = {}

    def keep(*_: object) -> None:
        gradients.update({name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None})

    trainer.precision.step = keep
    trainer.begin_epoch()
    (batch, samples), *_ = trainer._batches()
    trainer.first = batch
    trainer.step(batch, samples)
    return gradients


def double(trainer: Any) -> Any:
    """The trainer with its network in float64, and inputs, too."""
    trainer.network.double()
    trainer.network.encoders["image"].register_forward_pre_hook(lambda _, given: (given[0].double(),))
    return trainer


def expected_losses(trainer: Any) -> dict[str, Tensor]:
    """Task → cross-entropy of its own column of labels, by hand."""
    batch, network = trainer.first, trainer.network
    feature = network.encoders["image"](batch.inputs["image"])
    return {
        task: cross_entropy(network.heads[task](feature), batch.labels[:, column].long())
        for column, task in enumerate(network.tasks)
    }


@pytest.mark.parametrize("variant", ["per_tensor", "paper", "released"])
def test_a_step_with_two_tasks_is_the_reference_s_with_two_losses(variant: str, data: Folders, tmp_path: Path) -> None:
    trainer = double(trainer_of(data[2], "--ckpt_path", tmp_path / "run", "--variant", variant))
    ours = steps_gradient(trainer)
    trainer.network.zero_grad(set_to_none=True)
    losses = expected_losses(trainer)
    options = dict(trainer.method.variants[variant])
    mmpareto_step(losses["left"], {"image": losses["right"]}, {"image": trainer.network.encoders["image"]}, **options)
    for name, parameter in trainer.network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-9, atol=1e-14)


def test_micro_batches_add_up_to_the_sum_of_all_losses(data: Folders, tmp_path: Path) -> None:
    trainer = double(trainer_of(data[3], "--ckpt_path", tmp_path / "run", "--method", "uniform", "--accumulate", 4))
    ours = steps_gradient(trainer)
    trainer.network.zero_grad(set_to_none=True)
    sum(expected_losses(trainer).values()).backward()
    for name, parameter in trainer.network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-9, atol=1e-14)


def test_every_method_trains_three_tasks_or_is_refused_in_a_sentence(
    data: Folders, run: Callable[..., Path], tmp_path: Path
) -> None:
    refused = []
    for name in METHODS:
        if METHODS[name].needs_fusion:
            with pytest.raises(
                InputError, match=rf"--method {name} needs a joint prediction.*tasks top_left, top_right"
            ):
                train.main(words(data[3], tmp_path / name, "--method", name))
            assert not (tmp_path / name).exists()
            refused.append(name)
            continue
        (line,) = metrics(run(3, "--method", name, *OPTIONS.get(name, ())))
        heads = ["top_right"] if name == "unimodal" else ["top_left", "top_right", "bottom_left"]
        assert [key for key in line if key.startswith("acc")] == ["acc", *(f"acc_{head}" for head in heads)]
        for key in ("acc", "loss", "train_acc", "train_loss", "val_acc"):
            assert line[key] == pytest.approx(np.mean([line[f"{key}_{head}"] for head in heads])), key
        assert ("conflict_rate_image" in line) == (name in ("mmpareto", "pareto", "gradnorm", "pcgrad", "metabalance"))
    assert refused == [
        *("joint", "dgl", "ogm", "ogm_ge", "opm", "gblending", "greedy", "pmr", "agm"),
        *("inforeg", "relearning", "cml", "lfm", "ensemble", "pretrain_finetune"),
        *("umt", "smv", "cggm", "mcr", "mla", "reconboost"),
    ]


def test_an_aggregator_of_torchjd_trains_three_tasks(data: Folders, tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    assert train.main(words(data[3], tmp_path / "run", "--method", "torchjd:UPGrad")) == 0
    assert metrics(tmp_path / "run")[0]["acc_bottom_left"] is not None


def test_one_task_alone_is_a_network_that_has_no_other(run: Callable[..., Path], capsys: Any) -> None:
    alone = run(3, "--method", "unimodal", "--task", "top_right")
    weights = read(alone / "last.pt")["model"]
    assert {name.split(".")[1] for name in weights if name.startswith("heads.")} == {"top_right"}
    assert evaluate.main([str(alone), "--gpu_ids", "cpu"]) == 0
    assert load(alone).tasks == ["top_right"] and "top_right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method unimodal", r"left, right: choose it by `task`"),
        ("--method unimodal --task top", r"no task 'top': the data set has the tasks left, right"),
        ("--method uniform --fusion concat", r"--fusion has no effect.*left, right are tasks of one encoder"),
        ("--no_probe", r"--no_probe has no effect"),
        ("--encoder transformer", r"transformer takes sequences"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(
    flags: str, message: str, data: Folders, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train.main(words(data[2], tmp_path / "run", *flags.split()))
    assert not (tmp_path / "run").exists()


def test_refresh_takes_two_tasks_and_refuses_three(data: Folders, tmp_path: Path) -> None:
    flags = ("--variant", "paper", "--refresh", "2")
    assert train.main(words(data[2], tmp_path / "two", *flags)) == 0
    with pytest.raises(InputError, match="two objectives per encoder, not the tasks top_left, top_right, bottom_left"):
        train.main(words(data[3], tmp_path / "three", *flags))
    assert not (tmp_path / "three").exists()


def test_a_task_without_a_head_is_one_sentence() -> None:
    outputs = Outputs(None, {"left": torch.zeros(2, 10)}, {}, {})
    with pytest.raises(InputError, match="the labels are of 2 tasks, but the network has the heads left"):
        head_labels(outputs, torch.zeros(2, 2, dtype=torch.int32))


def test_a_stopped_run_continues_bit_identically(data: Folders, tmp_path: Path) -> None:
    flags = ("--method", "gradnorm", "--record_gradients", "1", "--epochs", "2", "--batch_size", "18")
    assert train.main(words(data[2], tmp_path / "whole", *flags)) == 0
    with acting(Trainer, "step", 4, send_signal):
        assert train.main(words(data[2], tmp_path / "stopped", *flags)) == 143
    assert resume(tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def train_in_float64(arguments: list[str]) -> int:
    """Train in a process group that exists already; rounding differs between one process and two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeNet, "forward", lambda net, x, forward=LeNet.forward: forward(net, x.double()))
        patch.setattr("mmpareto.training.run.build_network", lambda **shape: build_network(**shape).double())
        patch.setattr(distributed, "init_process_group", lambda *_, **__: None)
        patch.setattr(distributed, "destroy_process_group", lambda *_: None)
        return train.main(arguments)


@pytest.mark.slow
def test_two_processes_train_tasks_like_one(data: Folders, tmp_path: Path) -> None:
    """The last batch has 2 of 54 samples."""
    flags = ("--epochs", "2", "--batch_size", "13", "--accumulate", "2", "--record_gradients", "2")
    assert train_in_float64(words(data[3], tmp_path / "one", *flags)) == 0
    (tmp_path / "results").mkdir()
    arguments = words(data[3], tmp_path / "two", *flags)
    assert in_processes(2, train_in_float64, tmp_path / "results", arguments) == [0, 0]
    one, two = (read(tmp_path / name / "last.pt")["model"] for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        for key in ("acc", "acc_top_right", "train_loss", "train_acc_top_left", "conflict_rate_image", "val_loss"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_data_parallel_trains_tasks_like_one_gpu(data: Folders, tmp_path: Path) -> None:
    for name, gpu_ids in (("one", "0"), ("two", "0,1")):
        assert train.main(words(data[2], tmp_path / name, "--gpu_ids", gpu_ids)) == 0
    one, two = (read(tmp_path / name / "last.pt")["model"] for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_recorded_gradients_are_those_of_every_task_and_every_two(data: Folders, tmp_path: Path) -> None:
    trainer = trainer_of(data[3], "--ckpt_path", tmp_path / "run", "--record_gradients", 1)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.fit()
    trainer.network.load_state_dict(before)
    trainer.begin_epoch()
    trainer.order.set_epoch(1)
    (trainer.first, _), *_ = trainer._batches()
    losses, parameters = expected_losses(trainer), list(trainer.network.encoders["image"].parameters())
    g = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses.values()]
    with np.load(tmp_path / "run" / "gradients.npz") as file:
        assert file["objectives"].tolist() == list(losses)
        for column, task in enumerate(losses):
            np.testing.assert_allclose(file[f"norm_{task}_image"][0], [x.norm() for x in g[column]], rtol=1e-4)
        for number, (a, b) in enumerate(itertools.combinations(range(3), 2)):
            cosines = [(x * y).sum() / (x.norm() * y.norm()) for x, y in zip(g[a], g[b], strict=True)]
            np.testing.assert_allclose(file["cosine_image"][0, :, number], cosines, atol=1e-4)
    records = FinishedRun(tmp_path / "run").recorded_gradients().encoders["image"]
    flat = [torch.cat([x.flatten() for x in one]) for one in g]
    pairs = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(flat, 2)]
    assert records.whole_cosine()[0] == pytest.approx(min(pairs), abs=1e-4)


def test_evaluation_predicts_every_task(run: Callable[..., Path], data: Folders, capsys: Any) -> None:
    folder = run(2, "--record_gradients", "2")
    assert evaluate.main([str(folder / "last.pt"), "--gpu_ids", "cpu", "--temperature"]) == 0
    assert "mean" in capsys.readouterr().out
    results, line = folder / "evaluation-test-last", metrics(folder)[-1]
    with (results / "per_clip.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    for task in ("left", "right"):
        right = [row[task] == row[f"{task}_class"] for row in rows]
        assert np.mean(right) == pytest.approx(line[f"acc_{task}"])
    evaluated = json.loads((results / "metrics.json").read_text())
    assert evaluated["acc"] == pytest.approx(line["acc"]) and set(evaluated["confusion"]) == {"left", "right"}
    assert (results / "confusion.png").is_file() and (folder / "model_card.md").is_file()


def test_plots_show_the_tasks(run: Callable[..., Path]) -> None:
    groups = group_runs([FinishedRun(run(2, "--record_gradients", "2"))])
    accuracy = accuracy_plot(groups)
    assert [axes.get_title() for axes in accuracy.figure.axes if axes.get_title()] == [
        *("mean of the tasks", "left head", "right head")
    ]
    for draw in (conflict_plot, magnitude_plot, weights_plot):
        curves = draw(groups)
        assert "Task" in curves.title or "task" in curves.title
        assert {axes.get_title().partition("\n")[0] for axes in curves.figure.axes if axes.get_title()} == {"image"}
    legends = {text.get_text() for text in magnitude_plot(groups).figure.findobj(lambda a: hasattr(a, "get_text"))}
    assert {"left loss", "right loss"} <= legends


def test_the_report_has_a_column_per_task_and_compares_a_task_alone_with_the_same_task(
    data: Folders, run: Callable[..., Path]
) -> None:
    flags = {"Uniform": ("--method", "uniform"), "Unimodal (task right)": ("--method", "unimodal", "--task", "right")}
    rows = tuple(row for row in TABLES["tasks"].rows if row.label in flags)
    table = dataclasses.replace(TABLES["tasks"], columns=(Column("digits", "--dataset multimnist"),), rows=rows)
    cells = make_cells(table, [0], "last", ["--data", str(data[2])])
    outcomes = [Outcome(cell, run(2, *flags[cell.row.label]), None) for cell in cells]
    accuracies = {outcome.cell.row.label: metrics(outcome.folder)[-1] for outcome in outcomes if outcome.folder}
    sheet = make_run_sheet(table, outcomes, "last", plots=False)
    names = [column.title for column in sheet.columns]
    assert names[0] == "accuracy, %" and sorted(names[2:4]) == ["left, %", "right, %"]
    shown = {row.label: row.cells for row in sheet.rows}
    uniform, alone = accuracies["Uniform"], accuracies["Unimodal (task right)"]
    assert shown["Uniform"][0].value == pytest.approx((uniform["acc_left"] + uniform["acc_right"]) / 2)
    difference = shown["Unimodal (task right)"][1]
    assert difference.value == pytest.approx(alone["acc"] - uniform["acc_right"])
    assert not any("joint" in claim.claim for claim in sheet.claims)
