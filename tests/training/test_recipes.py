"""Recipes: values that were read in the sources by hand, schedules of real PyTorch schedulers, options of methods."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models.building import INITIALISATIONS
from mmpareto.training.method_options import methods_text, read_options
from mmpareto.training.optimisation import learning_rate
from mmpareto.training.recipes import RECIPES, options_in, own_recipe, recipe
from mmpareto.training.settings import Settings, parse
from prepared_clips import write_prepared
from tiny_runs import run

DGL = {
    **{"init": "ogm_ge", "learning_rate": 0.002, "batch_size": 64, "epochs": 100, "optimizer": "sgd", "momentum": 0.9},
    **{"weight_decay": 1e-4, "clip_grad": 40.0, "drop_last": "all", "best_from_epoch": 2, "frame_choice": "first"},
}
STFT = {"audio": "stft", "audio_frames": 1 + 5 * 16000 // 128, "frames": 3}
OGM = {
    **{"init": "ogm_ge", "learning_rate": 0.001, "batch_size": 64, "epochs": 100, "optimizer": "sgd", "momentum": 0.9},
    **{"weight_decay": 1e-4, "clip_grad": None, "drop_last": "none", "best_from_epoch": 1},
}
SPECTROGRAM = {"audio": "spectrogram", "audio_frames": 1 + 3 * 22050 // 353, "frames": 1}


def settings(line: str) -> Settings:
    return parse(line.split()).settings


@pytest.mark.parametrize(
    ("line", "expected", "alpha"),
    [
        ("cremad --recipe dgl --method dgl", DGL | SPECTROGRAM, 4),
        ("kinetics_sounds --recipe dgl --method dgl", DGL | STFT | {"n_classes": 33}, 3),
        ("vggsound --recipe dgl --method dgl", DGL | STFT | {"n_classes": None}, 2),
        ("ave --recipe dgl --method dgl", DGL | SPECTROGRAM, 4),
        ("cremad --recipe ogm_ge --method ogm_ge", OGM | SPECTROGRAM | {"frame_choice": "first"}, 0.8),
        ("cremad --recipe ogm_ge --method ogm", OGM, 0.8),
        (
            "kinetics_sounds --recipe ogm_ge --method ogm_ge",
            OGM | {"audio": "fbank", "frames": 3, "frame_choice": "starts"},
            0.8,
        ),
        ("vggsound --recipe ogm_ge --method ogm_ge", OGM | STFT | {"frame_choice": "first"}, 0.1),
    ],
)
def test_recipes_hold_the_values_of_their_sources(line: str, expected: dict[str, Any], alpha: float) -> None:
    parsed = settings(f"--dataset {line}")
    assert {name: getattr(parsed, name) for name in expected} == expected
    assert parsed.options["alpha"] == alpha


def test_the_journal_recipe_is_that_of_issue_3() -> None:
    parsed = settings("--dataset cremad --recipe journal --method ogm_ge")
    expected = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "batch_size": 32, "epochs": 100}
    assert {name: getattr(parsed, name) for name in expected} == expected
    assert {"alpha": 2.6, "modulation_starts": 0, "modulation_ends": 80}.items() <= parsed.options.items()
    rates = [learning_rate(parsed, epoch) for epoch in (1, 20, 21, 41, 61, 81, 100)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-7])


def test_the_pmr_recipe_is_that_of_its_commands() -> None:
    parsed = settings("--dataset cgmnist --recipe pmr --method pmr")
    expected = {"learning_rate": 0.001, "batch_size": 64, "epochs": 100, "encoder": "cnn", "optimizer": "sgd"}
    assert {name: getattr(parsed, name) for name in expected} == expected
    assert {"alpha": 1.0, "momentum_coef": 0.0, "modulation_ends": 60}.items() <= parsed.options.items()
    assert [learning_rate(parsed, epoch) for epoch in (1, 70, 71)] == pytest.approx([1e-3, 1e-3, 1e-4])


PMR_CLIPS = {
    **{"epochs": 130, "learning_rate": 0.001, "batch_size": 64, "optimizer": "sgd", "lr_decay_step": 70},
    **{"audio": "spectrogram", "frame_choice": "first", "encoder": "resnet18"},
}


@pytest.mark.parametrize(
    ("line", "expected", "options"),
    [
        ("cremad --recipe pmr --method pmr", PMR_CLIPS | {"frames": 3}, {"alpha": 2, "samples": "augmented"}),
        ("ave --recipe pmr --method pmr", PMR_CLIPS | {"frames": 4}, {"alpha": 2, "samples": "validation"}),
        ("cgmnist --recipe pmr --method pmr", {"epochs": 100}, {"alpha": 1, "samples": "training"}),
        (
            "cremad --recipe agm --method agm",
            {"epochs": 1500, "batch_size": 64, "frames": 1, "audio": "spectrogram", "lr_decay_step": 70},
            {"alpha": 1.5, "limit": 10, "modulation_ends": None, "ratio": "released"},
        ),
        (
            "modelnet40 --recipe greedy --method greedy",
            {"learning_rate": 0.1, "batch_size": 8, "epochs": 299, "momentum": 0, "weight_decay": 0},
            {"threshold": 0.01, "window": 5, "start_epoch": 2},
        ),
        (
            "cremad --recipe inforeg --method inforeg",
            {"learning_rate": 0.002, "epochs": 80, "batch_size": 64, "weight_decay": 1e-4, "lr_decay_step": 40},
            {"threshold": 0.04},
        ),
        (
            "cremad --recipe relearning --method relearning",
            {"learning_rate": 0.002, "epochs": 90, "batch_size": 64, "scheduler": "none", "audio": "fbank"},
            {"reinit_epoch": 20, "reinit_num": 3, "move_lambda": 3},
        ),
        (
            "cremad --recipe mla --method mla",
            {"learning_rate": 0.001, "epochs": 100, "lr_decay_step": 70, "frames": 3, "frame_choice": "starts"},
            {},
        ),
        (
            "cremad --recipe reconboost --method reconboost",
            {"learning_rate": 0.01, "epochs": 800, "weight_decay": 5e-4, "lr_decay_step": 240, "drop_last": "all"},
            {"boost_epochs": 4, "rectify_epochs": 4},
        ),
        ("cremad --recipe lfm --method lfm", {"learning_rate": 0.01, "epochs": 200, "lr_decay_step": 69}, {}),
        ("cremad --recipe mmcosine", {"learning_rate": 0.001, "batch_size": 32, "epochs": 200}, {}),
        (
            "kinetics_sounds --recipe opm --method opm",
            {"optimizer": "adamw", "learning_rate": 5e-5, "batch_size": 32, "image_size": 112, "lr_decay_step": 40},
            {"q_base": 0.5, "lam": 0.5},
        ),
        (
            "kinetics_sounds --recipe smv --method smv",
            {"optimizer": "adam", "learning_rate": 5e-5, "weight_decay": 1e-4, "epochs": 60, "lr_decay_step": 30},
            {"warmup": 5, "level": "sample"},
        ),
        (
            "mosi --recipe cggm --method cggm",
            {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64, "epochs": 30, "clip_grad": 0.8},
            {"rho": 1.3, "direction_weight": 0.2},
        ),
        ("mosi --method ogm", {"encoder": "transformer"}, {"modulated": "weights"}),
        ("chsims --method ogm_ge", {"encoder": "transformer"}, {"modulated": "weights"}),
        ("cremad --method ogm_ge", {"encoder": "resnet18"}, {"modulated": "convolutions"}),
    ],
)
def test_recipes_of_further_methods(line: str, expected: dict[str, Any], options: dict[str, Any]) -> None:
    parsed = settings(f"--dataset {line}")
    assert {name: getattr(parsed, name) for name in expected} == expected
    assert {name: parsed.options[name] for name in options} == options


def test_the_recipe_of_a_methods_authors() -> None:
    known = {
        (d, m): own_recipe(d, m) for d in RECIPES for m in ("mmpareto", "dgl", "ogm", "pmr", "agm", "greedy", "joint")
    }
    assert known["cremad", "agm"] == "agm" and known["mosi", "agm"] is None
    assert own_recipe("cremad", "opm") == "journal" and own_recipe("kinetics_sounds", "opm") == "opm"
    assert known["cremad", "ogm"] == "ogm_ge" and known["modelnet40", "greedy"] == "greedy"
    assert {name for (_, method), name in known.items() if method == "joint"} == {None}
    assert all(name in RECIPES[dataset] for (dataset, _), name in known.items() if name)


def multi_step(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [70], 0.1)


def single_step(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 70, 0.1)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("name", "make", "steps_first", "lower_from"), [("dgl", multi_step, True, 70), ("ogm_ge", single_step, False, 71)]
)
def test_schedules_are_those_of_pytorchs_schedulers_as_the_sources_step_them(
    name: str, make: Callable[[torch.optim.Optimizer], Any], steps_first: bool, lower_from: int
) -> None:
    """DGL's train_epoch steps its scheduler first of all, OGM-GE's last of all."""
    parsed = settings(f"--dataset cremad --recipe {name}")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=parsed.learning_rate)
    scheduler, rates = make(optimizer), []
    for _ in range(100):
        if steps_first:
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
        if not steps_first:
            scheduler.step()
    assert [learning_rate(parsed, epoch) for epoch in range(1, 101)] == pytest.approx(rates)
    assert next(epoch for epoch, rate in enumerate(rates, 1) if rate < rates[0]) == lower_from


def test_typed_options_win_over_the_recipe_and_variants_do_too() -> None:
    line = "--dataset kinetics_sounds --recipe dgl --method"
    assert settings(f"{line} dgl --alpha 2").options["alpha"] == 2
    assert settings(f"{line} ogm_ge").options["alpha"] == 0.8  # the recipe has options of dgl only
    released = settings("--dataset kinetics_sounds --method dgl")
    assert released.options["alpha"] == 4 and released.recipe == "released"
    variant, options = read_options("mmpareto", "paper", [], [], {"weights": "parameter", "gamma": 3.0})
    assert (variant, options["weights"], options["gamma"]) == ("paper", "encoder", 3.0)


def test_options_of_a_recipe_are_recorded_and_listed(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "synthetic", train=16, test=16)
    more = "--dataset synthetic --method dgl --recipe dgl --protocol paper --batch_size 8"
    assert run(data, tmp_path / "run", *more.split()) == 0
    arguments = json.loads((tmp_path / "run/config.json").read_text())["arguments"]
    assert arguments["options"]["alpha"] == 4.0 and arguments["drop_last"] == "all"
    assert "--dataset kinetics_sounds --recipe dgl: --alpha 3" in methods_text()


def test_every_recipe_gives_valid_settings_and_options() -> None:
    for dataset, recipes in RECIPES.items():
        for name, values in recipes.items():
            more = "--pretrained none" if "pretrained" in values else ""
            parsed = settings(f"--dataset {dataset} --recipe {name} {more}")
            assert parsed.init in INITIALISATIONS
            methods = {key.partition(".")[0] for key in values if "." in key}
            for method in methods:
                options = settings(f"--dataset {dataset} --recipe {name} --method {method} {more}").options
                assert options_in(values, method).items() <= options.items()
            assert set(recipe("cremad", "released")) <= set(values)
            assert all(source for _, source in values.values())


def test_ucf101_needs_a_file_of_weights_or_none() -> None:
    with pytest.raises(InputError, match=r"ImageNet weights.*--pretrained FILE.*--pretrained none") as error:
        settings("--dataset ucf101")
    assert "\n" not in str(error.value)
    assert settings("--dataset ucf101 --pretrained none").pretrained is None
    assert settings("--dataset ucf101 --recipe paper --pretrained resnet18.pth").pretrained == "resnet18.pth"
    assert settings("--dataset cremad --pretrained none").pretrained is None
