"""Recipes: the training hyper-parameters of the released codes and of the papers, per data set and with their sources.

A recipe maps the names of settings to values. A name such as "dgl.alpha" is an option of a method, for methods whose
authors give its value per data set. Any flag overrides a recipe. A data set that is not in `RECIPES` has one recipe,
`DEFAULT`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from mmpareto.errors import InputError


class Value(NamedTuple):
    """The value of a hyper-parameter, and its source."""

    value: Any
    source: str


Recipe: TypeAlias = dict[str, Value]

A_FILE = "FILE"  # of `pretrained`: the recipe needs a file, which only the user can name

RELEASED_CODE = "released MMPareto code (GeWu-Lab/MMPareto_ICML2024, MMPareto.py)"
RELEASED_LOADER = "released MMPareto code (GeWu-Lab/MMPareto_ICML2024, dataset/av_dataset.py)"
RELEASED_UCF101 = "released MMPareto code (GeWu-Lab/MMPareto_ICML2024, models/models.py, RFClassifier)"
NOT_IN_PAPER = f"not given in the paper; {RELEASED_CODE}"
DGL = "released DGL code (shicaiwei123/ICCV2025-GDL"  # its sources go on with the file
DGL_CODE = f"{DGL}, main_dgl.py)"
OGM = "OGM-GE code (GeWu-Lab/OGM-GE_CVPR2022"
OGM_CODE = f"{OGM}, main.py)"
PMR = "PMR's code (fanyunfeng-bit/Modal-Imbalance-PMR"
AGM = "AGM's code (lihong2303/AGM_ICCV2023"
AGM_AUTHOR = "AGM's author (lihong2303/AGM_ICCV2023, issues 5 and 10)"
AGM_USER = "a user's reading of AGM's author and paper (lihong2303/AGM_ICCV2023, issue 17), unchecked"
GREEDY = "Greedy's code (nyukat/greedy_multimodal_learning"
INFOREG = "InfoReg's code (GeWu-Lab/InfoReg_CVPR2025 at 41d887f"
RELEARNING = "the code of Diagnosing & Re-learning (GeWu-Lab/Diagnosing_Relearning_ECCV2024"
OPM = "OPM's code (GeWu-Lab/BML_TPAMI2024"
MLA = "MLA's code (Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation at 11ae1ee"
RECONBOOST = "ReconBoost's code (huacong/ReconBoost"
SMV = "SMV's code (GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation"
LFM = "LFM's code (njustkmg/NeurIPS24-LFM at ad44fa0"
MMCOSINE = "MMCosine's code (GeWu-Lab/MMCosine_ICASSP23"
CGGM = "CGGM's code (zrguo/CGGM"
DIGITS = "PMR, CVPR 2023: a small CNN from scratch on the digits as they are"
JOURNAL = "the authors on the journal version of OGM-GE (GeWu-Lab/BML_TPAMI2024, issue 3)"
JOURNAL_UNSTATED = f"not stated by {JOURNAL}"
AV_DIGITS = "chosen here, sized for two CPU cores; no publication uses this data set"
MULTI_MNIST = (
    "chosen here, sized for two CPU cores; the encoder is that of Sener & Koltun (NeurIPS 2018); what the MMPareto "
    "paper used is unchecked"
)
CHOSEN = "chosen here; the sources do not say"
CPU_SIZED = "chosen here so that the synthetic stand-in trains in minutes on two CPU cores"


def _from(source: str, base: Recipe) -> Recipe:
    """The values of `base`, all of them ascribed to one source."""
    return {name: Value(value, source) for name, (value, _) in base.items()}


def _over(base: Recipe, source: str, **values: Any) -> Recipe:
    """The recipe with these values replaced, all of them from one source."""
    return base | {name: Value(value, source) for name, value in values.items()}


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
_PAPER = _from(NOT_IN_PAPER, _RELEASED) | {
    "learning_rate": Value(1e-3, "MMPareto paper, experimental settings"),
    "optimizer": Value("sgd", "MMPareto paper, experimental settings"),
    "momentum": Value(0.9, "MMPareto paper, experimental settings"),
}


def _cremad_loader(code: str) -> Recipe:
    """The input settings of dataset/CramedDataset.py, the same in OGM-GE's code and in DGL's."""
    return {
        "audio": Value("spectrogram", f"{code}, dataset/CramedDataset.py)"),
        "frames": Value(1, f"{code}, dataset/CramedDataset.py): as many as --fps, 1"),
        "frame_choice": Value(
            "first", f"{code}, dataset/): the first ones of the folder's listing, whatever frames are drawn"
        ),
        "image_size": Value(224, f"{code}, dataset/)"),
        "crop_scale": Value((0.08, 1.0), f"{code}, dataset/): torchvision's default"),
        "audio_frames": Value(188, f"{code}, dataset/CramedDataset.py): all of a spectrogram of 3 s"),
        "audio_pool": Value((1, 1), f"{code}, dataset/)"),
    }


# MBT, from scratch or, with --pretrained, from a ViT's weights

MBT = (
    "MMPareto paper, table 2: MBT, of a size that it does not state; that of the MBT paper (arXiv 2107.00135), ViT-B/16"
)
_MBT = _over(_PAPER, MBT, encoder="mbt-base")

# DGL. Its command of each data set overrides the parser's learning rate, 0.001, and where stated α and the frames.

_DGL = _from(DGL_CODE, _RELEASED) | {
    "encoder": Value("resnet18", f"{DGL}, models/backbone.py), from scratch"),
    "init": Value("ogm_ge", f"{DGL_CODE}: weight_init of utils/utils.py on the whole model"),
    "learning_rate": Value(0.002, f"{DGL}, cramed_dgl.sh)"),
    "epochs": Value(100, DGL_CODE),
    "scheduler": Value("step", DGL_CODE),
    "lr_decay_step": Value(
        69,
        f"{DGL_CODE}: its scheduler for [70] steps at the start of each epoch, so the 70th is the first at the lower "
        "rate; there the rate falls only once, here again after 138 epochs",
    ),
    "lr_decay_ratio": Value(0.1, DGL_CODE),
    "clip_grad": Value(40.0, DGL_CODE),
    "drop_last": Value("all", f"{DGL_CODE}: in both loaders"),
    "best_from_epoch": Value(2, f"{DGL_CODE}: the first epoch is never the best"),
    **_cremad_loader(DGL),
    "dgl.alpha": Value(4.0, f"{DGL}, cramed_dgl.sh): the first run, 77.48%, and main_dgl.py's default; 5 gave 78.12%"),
}
_STFT = {"audio": "stft", "audio_frames": 626, "frames": 3}  # 5 s at 16 kHz, hop 128; --use_video_frames is 3
_DGL_KINETICS = _over(_DGL, f"{DGL}, dataset/KSDataset.py)", **_STFT) | {
    "learning_rate": Value(0.002, f"{DGL}, ks_dgl.sh)"),
    "n_classes": Value(
        33, f"{DGL}, dataset/data/KineticSound/class.txt): 33 class folders; its heads have 34 outputs, one unused"
    ),
    "dgl.alpha": Value(3.0, f"{DGL}, ks_dgl.sh): one command that gave 75.10% and 76.28%; 2 gave 74.78%"),
}
_DGL_VGGSOUND = _over(_DGL, f"{DGL}, dataset/VGGSoundDataset.py)", **_STFT) | {
    "learning_rate": Value(0.002, f"{DGL}, vggsound.sh)"),
    "dgl.alpha": Value(2.0, f"{DGL}, vggsound.sh)"),
}
_DGL_AVE = _DGL | {
    "learning_rate": Value(0.002, f"chosen: that of all commands in the {DGL}); it has none for AVE"),
    "audio": Value(
        "spectrogram",
        f"chosen as the nearest: {DGL}, dataset/AVEDataset.py) computes it with hop 256 instead of 353 and refolds it "
        "by np.resize to 224 × 224, which is not available here",
    ),
    "audio_frames": Value(188, "chosen: all of the spectrogram"),
    "frames": Value(1, f"{DGL}, dataset/AVEDataset.py): --num_frame, 1 by default"),
    "dgl.alpha": Value(4.0, "chosen: DGL's authors state none for AVE; the default of their main_dgl.py"),
}

# OGM-GE

_OGM = _from(OGM_CODE, _RELEASED) | {
    "encoder": Value("resnet18", f"{OGM}, models/backbone.py), from scratch"),
    "init": Value("ogm_ge", f"{OGM_CODE}: weight_init of utils/utils.py on the whole model"),
    "learning_rate": Value(0.001, OGM_CODE),
    "epochs": Value(100, OGM_CODE),
    "scheduler": Value("step", OGM_CODE),
    "lr_decay_step": Value(70, f"{OGM_CODE}: a StepLR that steps at the end of each epoch"),
    **_cremad_loader(OGM),
}


def _with_ogm_alpha(base: Recipe, alpha: float, source: str) -> Recipe:
    return base | {f"{method}.alpha": Value(alpha, source) for method in ("ogm", "ogm_ge")}


_OGM_CREMAD = _with_ogm_alpha(_OGM, 0.8, f"{OGM}, README.md, Tips)")
_OGM_KINETICS = _with_ogm_alpha(
    _OGM, 0.8, f"chosen: OGM-GE's authors state none; that of a command for it in the {DGL}, ks_ogm.sh)"
) | {
    "audio": Value("fbank", f"{OGM}, data/KineticSound/process_audio.py), described as one of its preprocessings"),
    "audio_frames": Value(1024, f"{OGM}, data/KineticSound/process_audio.py)"),
    "frames": Value(3, f"{OGM}, dataset/dataset.py)"),
    "frame_choice": Value("starts", f"{OGM}, dataset/dataset.py): the first frame of each third, in test, too"),
}
_OGM_VGGSOUND = _with_ogm_alpha(_OGM, 0.1, f"{OGM}, README.md, Tips)")
_OGM_VGGSOUND = _over(_OGM_VGGSOUND, f"{OGM}, dataset/VGGSoundDataset.py)", **_STFT)

# The journal version of OGM-GE, whose other methods had the same hyper-parameters

_JOURNAL = _over(
    _from(f"{JOURNAL_UNSTATED}; {RELEASED_CODE}", _RELEASED),
    JOURNAL,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.01,
    batch_size=32,
    epochs=100,
    scheduler="step",
    lr_decay_step=20,
    lr_decay_ratio=0.1,
    **{"ogm_ge.alpha": 2.6, "ogm_ge.modulation_ends": 80},
) | {
    name: Value(_RELEASED[name].value, f"{JOURNAL}: its preprocessing differs slightly; how is not stated")
    for name in ("audio", "frames", "frame_choice", "image_size", "crop_scale", "audio_frames", "audio_pool")
}

# PMR

_DIGITS = {"encoder": "cnn", "image_size": 28, "crop_scale": (1.0, 1.0)}
_PMR_CODE = f"{PMR}, main_Prototype_grad.py)"
_PMR_COMMANDS = f"{PMR}, bash.sh)"
_PMR_RUNS = _from(_PMR_CODE, _RELEASED) | {
    "init": Value("ogm_ge", f"{_PMR_CODE}: weight_init of utils/utils.py on the whole model"),
    "learning_rate": Value(0.001, _PMR_COMMANDS),
    "scheduler": Value("step", _PMR_CODE),
    "lr_decay_step": Value(70, f"{_PMR_CODE}: a StepLR that steps at the end of each epoch"),
    "best_from_epoch": Value(1, f"{_PMR_CODE}, which prints every epoch and chooses none"),
    "pmr.momentum_coef": Value(0.0, _PMR_COMMANDS),
}
_PMR = _over(_PMR_RUNS, DIGITS, **_DIGITS) | {
    "epochs": Value(100, _PMR_COMMANDS),
    "pmr.alpha": Value(1.0, _PMR_COMMANDS),
    "pmr.modulation_ends": Value(60, _PMR_COMMANDS),
    "ogm_ge.alpha": Value(0.2, _PMR_COMMANDS),
}
for _name in ("audio", "frames", "frame_choice", "audio_frames", "audio_pool"):
    _PMR[_name] = Value(_RELEASED[_name].value, "without effect on digits")
_PMR_CLIPS = (
    _PMR_RUNS
    | _cremad_loader(PMR)
    | {
        "encoder": Value("resnet18", f"{PMR}, models/backbone.py), from scratch"),
        "epochs": Value(130, _PMR_COMMANDS),
        "pmr.modulation_ends": Value(70, _PMR_COMMANDS),
        "audio": Value(
            "spectrogram",
            f"chosen as the nearest: the {PMR}) reads spectrograms of 299 and 1,004 steps, whose preparation it lacks",
        ),
        "audio_frames": Value(188, "chosen: all of the spectrogram"),
    }
)
_PMR_CREMAD = _PMR_CLIPS | {
    "frames": Value(3, _PMR_COMMANDS),
    "pmr.alpha": Value(2.0, f"{_PMR_COMMANDS}: with concatenation and Adam or AdaGrad; SGD only with other fusions"),
    "pmr.samples": Value("augmented", _PMR_CODE),
    "ogm_ge.alpha": Value(0.1, f"{_PMR_COMMANDS}: with gated fusion and FiLM"),
}
_PMR_AVE = _PMR_CLIPS | {
    "frames": Value(4, _PMR_COMMANDS),
    "pmr.alpha": Value(2.0, _PMR_COMMANDS),
    "pmr.samples": Value("validation", _PMR_CODE),
    "ogm_ge.alpha": Value(0.2, _PMR_COMMANDS),
}

# AGM

_AGM_CREMAD = (
    _from(f"{AGM}, tasks/CREMAD_task.py)", _RELEASED)
    | _from(f"{AGM}, dataloader/CREMAD_loader.py)", _cremad_loader(AGM))
    | {
        "encoder": Value("resnet18", f"{AGM}, model/utils/resnet.py), from scratch"),
        "init": Value(
            "ogm_ge", f"nearest: {AGM}, utils/function_tools.py) draws convolutions from Kaiming uniform, not normal"
        ),
        "learning_rate": Value(0.001, AGM_USER),
        "batch_size": Value(64, AGM_USER),
        "epochs": Value(1500, AGM_AUTHOR),
        "scheduler": Value("step", f"{AGM}, tasks/CREMAD_task.py): a StepLR that steps at the end of each epoch"),
        "lr_decay_step": Value(70, f"{AGM}, utils/config.py)"),
        "lr_decay_ratio": Value(0.9, f"{AGM_USER}; the code's default, 0.1, ends training after some 200 epochs"),
        "frame_choice": Value(
            "first", f"nearest: {AGM}, dataloader/CREMAD_loader.py) reads one fixed frame, the second of two or three"
        ),
        "drop_last": Value("none", f"{AGM}, dataloader/CREMAD_loader.py)"),
        "agm.alpha": Value(1.5, AGM_AUTHOR),
        "agm.limit": Value(10.0, f"{AGM}, run/CREMAD_main.py)"),
    }
)

# Greedy

_GREEDY_CONFIG = f"{GREEDY}, configs/training_guided.gin)"
_GREEDY_LOADER = f"{GREEDY}, src/dataset.py)"
_GREEDY = _from(_GREEDY_CONFIG, _RELEASED) | {
    "encoder": Value("resnet18", f"{GREEDY}, src/model.py): torchvision's, from scratch"),
    "init": Value("ogm_ge", "nearest: torchvision's ResNet, whose linear layers keep PyTorch's default"),
    "learning_rate": Value(0.1, _GREEDY_CONFIG),
    "batch_size": Value(8, _GREEDY_CONFIG),
    "epochs": Value(299, f"{_GREEDY_CONFIG}: n_epochs is 300, of which src/training_loop.py trains one less"),
    "momentum": Value(0.0, _GREEDY_CONFIG),
    "weight_decay": Value(0.0, _GREEDY_CONFIG),
    "scheduler": Value(
        "none", f"nearest: {_GREEDY_CONFIG} has × 0.3 after 10 epochs without a lower training loss, not available here"
    ),
    "crop_scale": Value((1.0, 1.0), f"{_GREEDY_LOADER}: no crop, random horizontal flips"),
    "image_size": Value(224, f"{_GREEDY_LOADER}: that of MVCNN's views"),
    "greedy.threshold": Value(0.01, _GREEDY_CONFIG),
    "greedy.window": Value(5, _GREEDY_CONFIG),
    "greedy.start_epoch": Value(2, _GREEDY_CONFIG),
}
for _name in ("audio", "frames", "frame_choice", "audio_frames", "audio_pool"):
    _GREEDY[_name] = Value(_RELEASED[_name].value, "without effect on images")

# InfoReg, Diagnosing & Re-learning, MLA, ReconBoost, LFM and MMCosine, on CREMA-D

_STEP_AT_END = "a StepLR that steps at the end of each epoch"
_INFOREG = (
    _from(f"{INFOREG}, main.py)", _RELEASED)
    | _cremad_loader(INFOREG)
    | {
        "init": Value(
            "ogm_ge", f"{INFOREG}, main.py): weight_init of utils/utils.py, which it lacks, on the whole model"
        ),
        "epochs": Value(80, f"{INFOREG}, main.py); at ea7b9d5, 50"),
        "scheduler": Value("step", f"{INFOREG}, main.py): {_STEP_AT_END}"),
        "lr_decay_step": Value(40, f"{INFOREG}, main.py); at ea7b9d5, 30"),
        "frames": Value(3, f"{INFOREG}, main.py): as many as --fps, 3"),
        "frame_choice": Value(
            "spread",
            f"nearest: {INFOREG}, dataset/CramedDataset.py) reads three different ones at random, in tests, too",
        ),
    }
)
_RELEARNING = _from(f"{RELEARNING}, code/ours.py)", _RELEASED) | {
    "init": Value("mmpareto", f"assumed: {RELEARNING}, code/models) lacks its backbone.py; that of the same group"),
    "epochs": Value(90, f"{RELEARNING}, code/script/ours.sh)"),
    "crop_scale": Value(
        (1.0, 1.0),
        f"nearest: {RELEARNING}, code/dataset/av_dataset.py) augments for mode 'train' only, and trains with "
        "'my_train': no crops and, unlike here, no flips",
    ),
    **{
        name: Value(_RELEASED[name].value, f"{RELEARNING}, code/dataset/av_dataset.py)")
        for name in ("audio", "frames", "frame_choice", "image_size", "audio_frames", "audio_pool")
    },
}
_MLA = _from(f"{MLA}, main.py)", _RELEASED) | {
    "init": Value("ogm_ge", f"{MLA}, main.py): weight_init of utils/utils.py on the whole model"),
    "learning_rate": Value(0.001, f"{MLA}, main.py)"),
    "epochs": Value(100, f"{MLA}, README.md and main.py)"),
    "scheduler": Value("step", f"{MLA}, main.py): {_STEP_AT_END}"),
    "lr_decay_step": Value(70, f"{MLA}, main.py)"),
    "frames": Value(3, f"{MLA}, dataset/dataset.py)"),
    "frame_choice": Value("starts", f"{MLA}, dataset/dataset.py): the first frame of each third, in test, too"),
    **{
        name: Value(_RELEASED[name].value, f"{MLA}, dataset/dataset.py, data/extract_fbank.py)")
        for name in ("audio", "image_size", "crop_scale", "audio_frames", "audio_pool")
    },
}
_RECONBOOST = (
    _from(f"{RECONBOOST}, train.py)", _RELEASED)
    | _cremad_loader(RECONBOOST)
    | {
        "init": Value("ogm_ge", f"assumed: {RECONBOOST}) starts from unimodal checkpoints, whose training it lacks"),
        "learning_rate": Value(0.01, f"{RECONBOOST}, README.md)"),
        "weight_decay": Value(5e-4, f"{RECONBOOST}, train.py)"),
        "epochs": Value(
            800,
            f"{RECONBOOST}): its checkpoint of CREMA-D is of stage 99, from 0, of 8 epochs each; train.py has 1,001",
        ),
        "scheduler": Value("step", f"{RECONBOOST}, train.py): after every 30 stages, 240 epochs"),
        "lr_decay_step": Value(240, f"{RECONBOOST}, train.py): after every 30 stages, 240 epochs"),
        "drop_last": Value("all", f"{RECONBOOST}, train.py): in both loaders"),
        "best_from_epoch": Value(32, f"{RECONBOOST}, train.py): from stage 3 on, at the end of a stage"),
    }
)
_LFM = (
    _from(f"{LFM}, data/crema.json and Crema_epoch.py)", _RELEASED)
    | _cremad_loader(LFM)
    | {
        "init": Value(
            "ogm_ge", f"{LFM}, Crema_epoch.py): a weight_init on the whole model, assumed to be that of OGM-GE"
        ),
        "learning_rate": Value(0.01, f"{LFM}, data/crema.json)"),
        "epochs": Value(200, f"{LFM}, data/crema.json)"),
        "scheduler": Value("step", f"{LFM}, Crema_epoch.py)"),
        "lr_decay_step": Value(
            69,
            f"{LFM}, Crema_epoch.py): its StepLR of 70 steps at the start of each epoch, so that the 70th and the 140th"
            " are the first at a lower rate; here, the 70th and the 139th",
        ),
        "audio_frames": Value(188, f"nearest: {LFM}, dataset/CREMA.py) repeats the clip to 20 s, here to 3 s"),
    }
)
_MMCOSINE = (
    _from(f"{MMCOSINE}, main_CD.py)", _RELEASED)
    | _cremad_loader(MMCOSINE)
    | {
        "init": Value(
            "mmpareto", f"{MMCOSINE}, main_CD.py) imports weight_init and does not call it; the encoders' assumed"
        ),
        "learning_rate": Value(0.001, f"{MMCOSINE}, main_CD.py)"),
        "batch_size": Value(32, f"{MMCOSINE}, main_CD.py)"),
        "epochs": Value(200, f"{MMCOSINE}, main_CD.py)"),
        "scheduler": Value("step", f"{MMCOSINE}, main_CD.py): {_STEP_AT_END}"),
        "lr_decay_step": Value(100, f"{MMCOSINE}, main_CD.py)"),
        "frames": Value(1, f"{MMCOSINE}, dataset/dataset.py)"),
        "frame_choice": Value("first", f"{MMCOSINE}, dataset/dataset.py): one image per clip; which, is not stated"),
        "audio": Value(
            "spectrogram",
            f"nearest: {MMCOSINE}, dataset/dataset.py) has scipy's of 3 s at 16 kHz, standardised by clip",
        ),
        "audio_frames": Value(188, "chosen: all of the spectrogram"),
    }
)

# OPM and SMV, on Kinetics-Sounds

_OPM = _from(f"{OPM}, code/config.py and code/main.py)", _RELEASED) | {
    "init": Value("ogm_ge", f"{OPM}, code/main.py): weight_init on the whole model"),
    "optimizer": Value("adamw", f"{OPM}, code/main.py)"),
    "learning_rate": Value(5e-5, f"{OPM}, code/config.py)"),
    "weight_decay": Value(0.01, f"{OPM}, code/main.py)"),
    "batch_size": Value(32, f"{OPM}, code/config.py)"),
    "epochs": Value(100, f"{OPM}, code/config.py)"),
    "scheduler": Value("step", f"{OPM}, code/main.py): {_STEP_AT_END}"),
    "lr_decay_step": Value(40, f"{OPM}, code/config.py)"),
    "frames": Value(3, f"{OPM}, code/dataset/KS.py)"),
    "frame_choice": Value(
        "starts", f"nearest: {OPM}, code/dataset/KS.py) reads the first, the middle and the last one"
    ),
    "image_size": Value(112, f"{OPM}, code/config.py)"),
    "crop_scale": Value((0.25, 1.0), f"{OPM}, code/config.py)"),
    "audio": Value("fbank", f"assumed: {OPM}, code/dataset/KS.py) reads files of features that it does not make"),
    "audio_frames": Value(1024, "chosen: all of the filterbank"),
    "opm.q_base": Value(0.5, f"{OPM}, code/scripts/train_opm.sh)"),
    "opm.lam": Value(0.5, f"{OPM}, code/scripts/train_opm.sh)"),
}
_SMV = _from(f"{SMV}, code/sample_level.py)", _RELEASED) | {
    "init": Value("mmpareto", f"{SMV}, code/models/backbone.py)"),
    "optimizer": Value("adam", f"{SMV}, code/sample_level.py); code/modality_level.py: SGD, learning rate 0.001"),
    "learning_rate": Value(5e-5, f"{SMV}, code/sample_level.py)"),
    "epochs": Value(60, f"{SMV}, code/sample_level.py)"),
    "scheduler": Value("step", f"{SMV}, code/sample_level.py): {_STEP_AT_END}"),
    "lr_decay_step": Value(30, f"{SMV}, code/sample_level.py)"),
    "frames": Value(3, f"{SMV}, code/datasets/dataloader.py)"),
    "frame_choice": Value(
        "released",
        f"nearest: {SMV}, code/datasets/dataloader.py), which reads the first one of up to six frames thrice",
    ),
    "audio": Value(
        "fbank", f"assumed: {SMV}, code/datasets/dataloader.py) reads files of features that it does not make"
    ),
    "audio_frames": Value(1024, "chosen: all of the filterbank"),
}

# The synthetic stand-in

_STAND_IN = _over(
    _from(CPU_SIZED, _RELEASED),
    CPU_SIZED,
    learning_rate=0.01,
    batch_size=16,
    epochs=9,
    image_size=64,
    crop_scale=(0.6, 1.0),
    audio_pool=(4, 2),
) | {"audio_frames": Value(320, f"{CPU_SIZED}: the length of a clip of 3.2 s")}
_MBT_STAND_IN = _over(
    _STAND_IN, CPU_SIZED, encoder="mbt-tiny", optimizer="adamw", learning_rate=1e-3, weight_decay=0.01
)
_DGL_ON_STAND_IN = (
    "init",
    "scheduler",
    "clip_grad",
    "drop_last",
    "best_from_epoch",
    "frames",
    "frame_choice",
    "dgl.alpha",
)
_DGL_STAND_IN = _STAND_IN | {name: _DGL[name] for name in _DGL_ON_STAND_IN}
_DGL_STAND_IN["lr_decay_step"] = Value(6, f"{CPU_SIZED}: after two thirds of the epochs, about as in {DGL_CODE}")

# Audio-visual digits

_AV_DIGITS = _DIGITS | {
    "learning_rate": 0.01,
    "batch_size": 32,
    "epochs": 30,
    "scheduler": "step",
    "lr_decay_step": 20,
}

# MultiMNIST

_MULTI_MNIST = _DIGITS | {
    "encoder": "lenet",
    "learning_rate": 0.02,
    "batch_size": 128,
    "epochs": 8,
    "scheduler": "step",
    "lr_decay_step": 6,
}

_CONTRASTIVE_SOURCE = "chosen here for contrastive pre-training, sized for two CPU cores"
_CONTRASTIVE = {
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "epochs": 20,
    "scheduler": "cosine",
    "drop_last": "train",  # a smaller batch would have fewer negatives
}
_FAST = {"amp": "bf16", "channels_last": True}  # half the time of this CNN, on a CPU

# UCF-101, MOSI, MOSEI, CH-SIMS

_THREE_FRAMES = {"frames": 3}
_UCF101 = _over(
    _from(f"{RELEASED_CODE}, for CREMA-D; how it trains on UCF-101 is not released", _RELEASED), CHOSEN, **_THREE_FRAMES
) | {
    "encoder": Value("resnet18", RELEASED_UCF101),
    "pretrained": Value(
        A_FILE, f"{RELEASED_UCF101}: both encoders start from a file resnet18.pth, but for the stem of optical flow"
    ),
}
_SEQUENCES = {
    "encoder": "transformer",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "batch_size": 32,
    "epochs": 30,
    # Transformers have no convolutions, which OGM modulates by default.
    "ogm.modulated": "weights",
    "ogm_ge.modulated": "weights",
}
_CGGM = _over(_over(_RELEASED, CHOSEN, **_SEQUENCES), f"{CGGM}, run/mosi_run.py)", batch_size=64, clip_grad=0.8) | {
    "optimizer": Value("adam", f"{CGGM}, run/mosi_run.py)"),
    "learning_rate": Value(1e-3, f"{CGGM}, run/mosi_run.py); that of its classifiers, 5e-4, is not available here"),
    "epochs": Value(30, f"{CGGM}, run/mosi_run.py)"),
    "scheduler": Value(
        "none", f"nearest: {CGGM}, src/msatrain.py) has × 0.1 after 10 epochs without a lower validation loss"
    ),
    "cggm.rho": Value(1.3, f"{CGGM}, run/mosi_run.py)"),
}

# Gaussian modalities

MODALITIES = "chosen here so that a run takes seconds on a CPU; made-up data"
_VECTORS = {"encoder": "mlp", "learning_rate": 0.01, "batch_size": 64, "epochs": 6}


# Any other data set

DEFAULT_RECIPE = "default"
_NOT_TUNED = "chosen here for data of any kind, and tuned on none"
DEFAULT = _over(_RELEASED, _NOT_TUNED, epochs=30, scheduler="step", lr_decay_step=20) | {
    "encoder": Value("auto", f"{_NOT_TUNED}: by the kind of each modality's input"),
    "frames": Value(3, f"{_NOT_TUNED}; as OGM-GE on Kinetics-Sounds"),
    "frame_choice": Value("spread", f"{_NOT_TUNED}: clips may be short"),
    **{
        name: Value(_JOURNAL[name].value, f"{_NOT_TUNED}; as {JOURNAL}")
        for name in ("optimizer", "learning_rate", "weight_decay", "batch_size")
    },
}


def _released_and_paper(source: str, **values: Any) -> dict[str, Recipe]:
    return {"released": _over(_RELEASED, source, **values), "paper": _over(_PAPER, source, **values)}


RECIPES: dict[str, dict[str, Recipe]] = {
    "cremad": {
        "released": _RELEASED,
        "paper": _PAPER,
        "dgl": _DGL,
        "ogm_ge": _OGM_CREMAD,
        "journal": _JOURNAL,
        "mbt": _MBT,
        "pmr": _PMR_CREMAD,
        "agm": _AGM_CREMAD,
        "inforeg": _INFOREG,
        "relearning": _RELEARNING,
        "mla": _MLA,
        "reconboost": _RECONBOOST,
        "lfm": _LFM,
        "mmcosine": _MMCOSINE,
    },
    "kinetics_sounds": {
        **_released_and_paper(f"{OGM}, dataset/dataset.py)", **_THREE_FRAMES),
        "dgl": _DGL_KINETICS,
        "ogm_ge": _OGM_KINETICS,
        "mbt": _over(_MBT, f"{OGM}, dataset/dataset.py)", **_THREE_FRAMES),
        "opm": _OPM,
        "smv": _SMV,
    },
    "cgmnist": {**_released_and_paper(DIGITS, **_DIGITS), "pmr": _PMR},
    "avdigits": {
        **_released_and_paper(AV_DIGITS, **_AV_DIGITS),
        "contrastive": _over(_over(_RELEASED, AV_DIGITS, **_DIGITS), _CONTRASTIVE_SOURCE, **_CONTRASTIVE, **_FAST),
    },
    "multimnist": _released_and_paper(MULTI_MNIST, **_MULTI_MNIST),
    "modelnet40": {"released": _RELEASED, "paper": _PAPER, "greedy": _GREEDY},
    "mosi": {**_released_and_paper(CHOSEN, **_SEQUENCES), "cggm": _CGGM},
    "mosei": _released_and_paper(CHOSEN, **_SEQUENCES),
    "chsims": _released_and_paper(CHOSEN, **_SEQUENCES),
    "vggsound": {"released": _RELEASED, "paper": _PAPER, "dgl": _DGL_VGGSOUND, "ogm_ge": _OGM_VGGSOUND},
    "ave": {"released": _RELEASED, "paper": _PAPER, "dgl": _DGL_AVE, "pmr": _PMR_AVE},
    "ucf101": {
        "released": _UCF101,
        "paper": _UCF101 | {name: _PAPER[name] for name in ("learning_rate", "optimizer", "momentum")},
    },
    "modalities": _released_and_paper(MODALITIES, **_VECTORS),
    "synthetic": {
        "released": _STAND_IN,
        "paper": _STAND_IN,
        "dgl": _DGL_STAND_IN,
        "mbt": _MBT_STAND_IN,
        "contrastive": _over(_STAND_IN, _CONTRASTIVE_SOURCE, **_CONTRASTIVE),
    },
}


# Method → the names of its authors' recipes, of which the first that a data set has counts.
_OWN = {
    "mmpareto": ("released",),
    "dgl": ("dgl",),
    "ogm": ("ogm_ge",),
    "ogm_ge": ("ogm_ge",),
    "pmr": ("pmr",),
    "agm": ("agm",),
    "greedy": ("greedy",),
    "inforeg": ("inforeg",),
    "relearning": ("relearning",),
    "opm": ("opm", "journal"),
    "mla": ("mla",),
    "reconboost": ("reconboost",),
    "smv": ("smv",),
    "lfm": ("lfm",),
    "cggm": ("cggm",),
}


def own_recipe(dataset: str, method: str) -> str | None:
    """Return the name of the recipe of a method's authors on a data set; None if there is none."""
    return next((name for name in _OWN.get(method, ()) if name in recipes_of(dataset)), None)


def recipes_of(dataset: str) -> dict[str, Recipe]:
    """Return the recipes of a data set by name; the first one is its default."""
    return RECIPES.get(dataset) or {DEFAULT_RECIPE: DEFAULT}


def recipe_name(dataset: str, name: str | None = None) -> str:
    """Return `name`, or the data set's default if it is None.

    Raises:
        InputError: the data set has no such recipe.
    """
    known = recipes_of(dataset)
    if name is not None and name not in known:
        raise InputError(f"{dataset} has no recipe {name!r}; it has {' or '.join(known)}.")
    return name or next(iter(known))


def recipe(dataset: str, name: str | None = None) -> Recipe:
    """Return the recipe `name` of a data set, or its default; raises InputError as `recipe_name` does."""
    return recipes_of(dataset)[recipe_name(dataset, name)]


def options_in(recipe: Recipe, method: str) -> dict[str, Any]:
    """Return the method's options that a recipe sets, by name."""
    return {
        name.removeprefix(f"{method}."): value for name, (value, _) in recipe.items() if name.startswith(f"{method}.")
    }


def recipes_with_options(method: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield data set, recipe and options, for every recipe that sets options of the method."""
    for dataset, recipes in RECIPES.items():
        for name, values in recipes.items():
            if options := options_in(values, method):
                yield dataset, name, options
