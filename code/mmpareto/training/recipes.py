"""Recipes: the training hyper-parameters of the released codes and of the papers, per data set and with their sources.

A recipe sets training hyper-parameters only; the options of a method are its variant's. Any flag overrides it.
"""

from typing import Any, NamedTuple, TypeAlias

from mmpareto.errors import InputError


class Value(NamedTuple):
    """The value of a hyper-parameter, and its source."""

    value: Any
    source: str


Recipe: TypeAlias = dict[str, Value]

RELEASED_CODE = "released MMPareto code (GeWu-Lab/MMPareto_ICML2024, MMPareto.py)"
RELEASED_LOADER = "released MMPareto code (GeWu-Lab/MMPareto_ICML2024, dataset/av_dataset.py)"
NOT_IN_PAPER = f"not given in the paper; {RELEASED_CODE}"
DGL_CODE = "released DGL code (shicaiwei123/ICCV2025-GDL)"
NOT_IN_DGL = f"as {RELEASED_CODE}; both descend from OGM-GE's code"
OGM_CODE = "OGM-GE code (GeWu-Lab/OGM-GE_CVPR2022): three frames per clip on Kinetics-Sounds"
DIGITS = "PMR, CVPR 2023: a small CNN from scratch on the digits as they are"
AV_DIGITS = "chosen here, sized for two CPU cores; no publication uses this data set"
CHOSEN = "chosen here; the sources do not say"
CPU_SIZED = "chosen here so that the synthetic stand-in trains in minutes on two CPU cores"

_RELEASED = {
    "encoder": Value("resnet18", "released MMPareto code (models/backbone.py), from scratch"),
    "init": Value("mmpareto", "released MMPareto code (models/backbone.py)"),
    "learning_rate": Value(0.002, RELEASED_CODE),
    "batch_size": Value(64, RELEASED_CODE),
    "epochs": Value(50, RELEASED_CODE),
    "optimizer": Value("sgd", RELEASED_CODE),
    "momentum": Value(0.9, RELEASED_CODE),
    "weight_decay": Value(1e-4, RELEASED_CODE),
    "scheduler": Value("none", f"{RELEASED_CODE}: a StepLR is built and never stepped"),
    "lr_decay_step": Value(30, f"{RELEASED_CODE}; without effect unless the scheduler is 'step'"),
    "lr_decay_ratio": Value(0.1, f"{RELEASED_CODE}; without effect unless the scheduler is 'step'"),
    "clip_grad": Value(None, f"{RELEASED_CODE}: a flag that is off by default"),
    "drop_last": Value("none", RELEASED_CODE),
    "best_from_epoch": Value(1, RELEASED_CODE),
    "audio": Value("fbank", RELEASED_LOADER),
    "frames": Value(2, RELEASED_LOADER),
    "frame_choice": Value("released", RELEASED_LOADER),
    "image_size": Value(224, RELEASED_LOADER),
    "crop_scale": Value((0.08, 1.0), f"{RELEASED_LOADER}: torchvision's default"),
    "audio_frames": Value(1024, RELEASED_LOADER),
    "audio_pool": Value((1, 1), RELEASED_LOADER),
}
# Overrides any recipe under --optimizer adam.
ADAM = {"weight_decay": Value(0.0, f"{RELEASED_CODE}: weight decay with SGD only")}
_PAPER = {name: Value(value, NOT_IN_PAPER) for name, (value, _) in _RELEASED.items()} | {
    "learning_rate": Value(1e-3, "MMPareto paper, experimental settings"),
    "optimizer": Value("sgd", "MMPareto paper, experimental settings"),
    "momentum": Value(0.9, "MMPareto paper, experimental settings"),
}
_DGL = {name: Value(value, NOT_IN_DGL) for name, (value, _) in _RELEASED.items()} | {
    "learning_rate": Value(0.002, DGL_CODE),
    "epochs": Value(100, DGL_CODE),
    "optimizer": Value("sgd", DGL_CODE),
    "scheduler": Value("step", DGL_CODE),
    "lr_decay_step": Value(70, DGL_CODE),
    "lr_decay_ratio": Value(0.1, DGL_CODE),
    "clip_grad": Value(40.0, DGL_CODE),
    "audio": Value("spectrogram", f"{DGL_CODE}, on CREMA-D"),
    "frames": Value(1, f"{DGL_CODE}, on CREMA-D"),
    "audio_frames": Value(188, f"{DGL_CODE}: all of a spectrogram of 3 s"),
}
_STAND_IN = {name: Value(value, CPU_SIZED) for name, (value, _) in _RELEASED.items()} | {
    "learning_rate": Value(0.01, CPU_SIZED),
    "batch_size": Value(16, CPU_SIZED),
    "epochs": Value(9, CPU_SIZED),
    "image_size": Value(64, CPU_SIZED),
    "crop_scale": Value((0.6, 1.0), CPU_SIZED),
    "audio_frames": Value(320, f"{CPU_SIZED}: the length of a clip of 3.2 s"),
    "audio_pool": Value((4, 2), CPU_SIZED),
}

_DGL_STAND_IN = _STAND_IN | {
    "scheduler": Value("step", CPU_SIZED),
    "lr_decay_step": Value(6, f"{CPU_SIZED}: after 70% of the epochs, as in the {DGL_CODE}"),
    "clip_grad": Value(40.0, DGL_CODE),
    "frames": Value(1, DGL_CODE),
}


def _over(base: Recipe, source: str, **values: Any) -> Recipe:
    """The recipe with these values replaced, all of them from one source."""
    return base | {name: Value(value, source) for name, value in values.items()}


def _released_and_paper(source: str, **values: Any) -> dict[str, Recipe]:
    return {"released": _over(_RELEASED, source, **values), "paper": _over(_PAPER, source, **values)}


_THREE_FRAMES = {"frames": 3}
_DIGITS = {"encoder": "cnn", "image_size": 28, "crop_scale": (1.0, 1.0)}
_AV_DIGITS = _DIGITS | {"learning_rate": 0.01, "batch_size": 32, "epochs": 30, "scheduler": "step", "lr_decay_step": 20}
_SEQUENCES = {
    "encoder": "transformer",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "batch_size": 32,
    "epochs": 30,
}

RECIPES: dict[str, dict[str, Recipe]] = {
    "cremad": {"released": _RELEASED, "paper": _PAPER, "dgl": _DGL},
    "kinetics_sounds": {
        **_released_and_paper(OGM_CODE, **_THREE_FRAMES),
        "dgl": _over(_DGL, f"{DGL_CODE}, on Kinetics-Sounds", audio="fbank", audio_frames=1024, **_THREE_FRAMES),
    },
    "cgmnist": _released_and_paper(DIGITS, **_DIGITS),
    "avdigits": _released_and_paper(AV_DIGITS, **_AV_DIGITS),
    "modelnet40": {"released": _RELEASED, "paper": _PAPER},
    "mosi": _released_and_paper(CHOSEN, **_SEQUENCES),
    "mosei": _released_and_paper(CHOSEN, **_SEQUENCES),
    "chsims": _released_and_paper(CHOSEN, **_SEQUENCES),
    "vggsound": {"released": _RELEASED, "paper": _PAPER},
    "ave": {"released": _RELEASED, "paper": _PAPER},
    "ucf101": _released_and_paper(CHOSEN, **_THREE_FRAMES),
    "synthetic": {"released": _STAND_IN, "paper": _STAND_IN, "dgl": _DGL_STAND_IN},
}


def recipe(dataset: str, name: str) -> Recipe:
    """Return the recipe `name` of a data set.

    Raises:
        InputError: the data set has no such recipe.
    """
    known = RECIPES.get(dataset, {})
    if name not in known:
        raise InputError(f"{dataset} has no recipe {name!r}; it has {' or '.join(known) or 'none'}.")
    return known[name]
