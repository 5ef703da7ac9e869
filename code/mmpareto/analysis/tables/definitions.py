"""The tables of experiments, as data. To add one, add an entry to `_TABLES`.

Flags are those of train.py, in one string that is split as a shell would. `{data}` stands for the folder of the data
set; followed by a suffix of `DERIVED`, for the folder of the same data prepared with other flags. `{seed}` stands for
the run's seed, where a run starts from another one.
"""

import contextlib
import dataclasses
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmpareto.data import DATASETS
from mmpareto.files import read_json
from mmpareto.training.method_labels import NAMES, name_of, value_text


@dataclasses.dataclass(frozen=True)
class Row:
    """One of the things that a table compares.

    Attributes:
        label: heading of the row.
        flags: of train.py.
        protocol: how the epoch that the row reports is chosen, one of those of `tables.py --protocol`; None where that
            flag decides, as it does in all tables but the bridges.
    """

    label: str
    flags: str
    protocol: str | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """One of the conditions under which a table compares its rows."""

    label: str
    flags: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: each row under each column, over several seeds.

    Attributes:
        name: on the command line.
        title: heading of the report.
        question: the question that the table answers, in one sentence.
        columns: empty for a table that has no runs (`cost`).
        baseline: label of the row that the others are compared with.
        note: what a reader of the results has to know.
        data_sets: whether each column is a data set, perhaps with its preparation or classes, and nothing else.
            `--dataset` replaces such columns; of others, it replaces the data set.
        step_costs: whether the report also has the cost of a training step of each row, with the number of modalities
            of each column, and a plot of both (`report.step_costs`); for columns whose encoders are `mlp`.
        own_recipes: whether each row has the recipe of its method's authors, on data sets that have one.
    """

    name: str
    title: str
    question: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str
    note: str = ""
    data_sets: bool = True
    step_costs: bool = False
    own_recipes: bool = False

    def __post_init__(self) -> None:
        if self.baseline not in [row.label for row in self.rows]:
            raise ValueError(f"table {self.name!r} has no row {self.baseline!r}")


def method_row(
    method: str, variant: str | None = None, *, recipe: str | None = None, blocks: str | None = None, **settings: Any
) -> Row:
    """The row of a method, with the label that its runs have in plots (`method_labels.label`).

    Arguments:
        variant: only if it is not the method's default, which a label does not mention.
        recipe, blocks: of all rows of a table that has one recipe, or blocks; they are not part of the label.
        settings: the method's options in the order of its class's arguments, and then settings of train.py, both only
            where they are not the default.
    """
    words = ["--method", method] + (["--variant", variant] if variant else [])
    words += ["--recipe", recipe] if recipe else []
    words += ["--blocks", blocks] if blocks else []
    details = [variant] if variant else []
    for name, value in settings.items():
        words += [f"--{name}", *map(value_text, value if isinstance(value, list | tuple) else [value])]
        details.append(f"{name} {value_text(value)}")
    return Row(name_of(method) + (f" ({', '.join(details)})" if details else ""), shlex.join(words))


def method_rows(*methods: str) -> tuple[Row, ...]:
    """One row per method, with its default options."""
    return tuple(method_row(method) for method in methods)


def unimodal_rows(datasets: Iterable[str], recipe: str | None = None, data: str | None = None) -> tuple[Row, ...]:
    """One row per modality of these data sets (registered names), for training on that modality alone.

    Of a data set with several tasks, one row per task.

    Arguments:
        data: the prepared folder, as for `modalities_of`.
    """
    names: dict[tuple[str, str], None] = {}
    for dataset in datasets:
        if tasks := tasks_of(dataset, data):
            names |= dict.fromkeys(("task", name) for name in tasks)
        else:
            names |= dict.fromkeys(("modality", name) for name in modalities_of(dataset, data))
    return tuple(method_row("unimodal", recipe=recipe, **{option: name}) for option, name in names)


def modalities_of(dataset: str, data: str | None = None) -> tuple[str, ...]:
    """Names of a data set's modalities; needs no torch.

    Arguments:
        data: its prepared folder (default: data/<dataset>), for data sets whose folders differ in them.
    """
    return _prepared_names(dataset, data, "modalities") or DATASETS[dataset].modalities or ()


def tasks_of(dataset: str, data: str | None = None) -> tuple[str, ...]:
    """Names of a data set's tasks, where it has several; the arguments are those of `modalities_of`."""
    return _prepared_names(dataset, data, "tasks") or DATASETS[dataset].tasks


def _prepared_names(dataset: str, data: str | None, key: str) -> tuple[str, ...]:
    """An entry of prepared.json; () where there is none."""
    path = Path(data or f"data/{dataset}") / "prepared.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return tuple(read_json(path)[key])
    return ()


def chain(first: Row, *changes: Row) -> tuple[Row, ...]:
    """Cumulative rows: each has the flags and the protocol of the row before it, with its own in their place."""
    rows = [first]
    for change in changes:
        flags = _by_name(rows[-1].flags) | _by_name(change.flags)
        words = [word for name, values in flags.items() for word in (name, *values)]
        rows.append(Row(change.label, shlex.join(words), change.protocol or rows[-1].protocol))
    return tuple(rows)


def _by_name(flags: str) -> dict[str, list[str]]:
    """Flag → its values."""
    values: dict[str, list[str]] = {}
    for word in shlex.split(flags):
        if word.startswith("--"):
            values[name := word] = []
        else:
            values[name].append(word)
    return values


# Suffix of a data folder's name → the flags of prepare.py that the data was prepared with.
DERIVED = {
    "-fps3": "--fps 3",
    "-spectrogram": "--audio spectrogram",
    "-waveform": "--audio waveform",
    "-33": "--classes 33 --audio waveform",
    "-speaker": "--split speaker",
    **{f"-n{count}": f"--modalities {count}" for count in (2, 3, 4, 8)},
    "-20k": "--samples 20000 10000",
    "-20k-clean": "--samples 20000 10000 --noise 0",
}

# Passed to every run, so that the report can show norms and conflicts of the gradients; takes 5% of the time.
RECORD = "--record_gradients 20"

# --quick: flags of every run, seeds, and size of the stand-in, such that a run takes seconds. A batch is smaller than
# the 6 clips held out, because recipe dgl drops partial batches.
QUICK = "--epochs 2 --image_size 32 --audio_pool 8 8 --batch_size 4"
QUICK_SEEDS = (0, 1)
QUICK_STAND_IN = {"clips": 72, "actors": 6}

CREMAD = Column("CREMA-D", "--dataset cremad")
KINETICS_SOUNDS = Column("Kinetics-Sounds", "--dataset kinetics_sounds")
UNIFORM, MMPARETO = method_row("uniform"), method_row("mmpareto")
PAPER, RELEASED = method_row("mmpareto", "paper"), method_row("mmpareto", "released")
ONE_RECIPE = "All rows are trained with the same recipe, so that the methods are compared and not their schedules"
OWN_RECIPES = (
    "Each row is trained with the recipe of its method's authors where they state one for the data set, and else with "
    "the table's, so that a difference is due to method and recipe together"
)
AGM_NOTE = (
    "AGM without a further word has the sign that its author confirms, and AGM (paper) the formula as it is printed, "
    "which slows the modality that lags."
)

COMPARED = (
    *method_rows("joint", "uniform", "pareto", "gblending", "ogm_ge", "greedy", "pmr", "agm"),
    method_row("agm", "paper"),
    *method_rows("mmpareto", "dgl"),
)
WITHOUT_GREEDY = tuple(row for row in COMPARED if row != method_row("greedy"))
WITHOUT_CONVOLUTIONS = tuple(
    method_row("ogm_ge", modulated="weights") if row == method_row("ogm_ge") else row for row in WITHOUT_GREEDY
)
IN_MAIN = (*COMPARED[:-1], PAPER, RELEASED, COMPARED[-1])
LARGER_STEPS, MIN_NORM = method_row("uniform", encoder_scale=1.5), method_row("mmpareto", gamma=1, rescale="none")
# Two-stage training, and the plain sum with larger steps: what a method has to beat before it is credited with more.
CONTROLS = (
    method_row("ensemble"),
    method_row("pretrain_finetune", freeze_encoders=True),
    method_row("pretrain_finetune"),
    LARGER_STEPS,
)
CONTROLS_NOTE = (
    "Controls are the ensemble, fine-tuning after unimodal pre-training, and Uniform (encoder_scale 1.5). The ensemble "
    "and the fusion on frozen encoders never let the joint loss reach an encoder. Without conflict, the step of "
    "MMPareto (released) is that of Uniform (encoder_scale 1.5)."
)
STEPS_NOTE = (
    "Without conflict, the step of MMPareto (released) is that of Uniform (encoder_scale 1.5). MMPareto (gamma 1, "
    "rescale none) takes the min-norm direction as it is, without λ and γ."
)
# One row per method; script/table_field.sh trains the teachers of UMT.
FIELD = (
    *method_rows("joint", "uniform", "ensemble", "pretrain_finetune", "gblending", "ogm", "ogm_ge", "opm", "greedy"),
    *method_rows("pmr", "agm"),
    Row("MMCosine", "--method joint --fusion cosine"),
    *method_rows("mla", "reconboost", "relearning", "smv"),
    method_row("smv", level="modality"),
    Row(name_of("umt"), "--method umt --teachers runs/teachers/{data}-seed{seed}"),
    *method_rows("lfm", "cml", "cggm", "inforeg"),
    method_row("inforeg", unimodal_loss=True),
    *method_rows("mcr", "gradnorm", "pcgrad", "metabalance", "pareto", "mmpareto"),
    RELEASED,
    *method_rows("dgl"),
)
AS_RELEASED = "As released: filterbank, 2 frames at 1 fps"
SPECTROGRAM = "--data {data}-spectrogram --audio spectrogram --audio_frames 188"
FROM_RELEASED = "As released, epoch chosen on the test set"
HELD_OUT = Row("A tenth of the training clips held out; epoch still chosen on the test set", "--protocol validation")
ON_VALIDATION = Row("Epoch chosen on the clips held out", "", "validation")
BRIDGE_NOTE = (
    "The first row is the released algorithm with the recipe and the protocol of its code. Every further row makes the "
    "one change that its label names and keeps all changes above it. Differences are from the first row, so the effect "
    "of one change is the difference between neighbouring rows. The second and the third row are the same runs, "
    "reported at two epochs."
)

# What script/pretraining.sh pre-trains with, into runs/pretraining-<method>-seed<n>.
UNHEARD_SPEAKER = Column("Unheard speaker", "--dataset avdigits --data {data}-speaker")
CONTRASTIVE = "--objective contrastive --recipe contrastive"
PRETRAINED = ("joint", "uniform", "pareto", "mmpareto")


def pretraining_row(label: str, method: str) -> Row:
    """The row of contrastive pre-training; its last epoch is reported, from which fine-tuning starts."""
    return Row(label, f"--method {method} {CONTRASTIVE}", "last")


def finetuning_row(label: str, pretrained: str) -> Row:
    """The row of supervised runs by Uniform with a tenth of the labels."""
    few = "--train_fraction 0.1 --epochs 60 --lr_decay_step 40"
    return Row(label, f"--method uniform --pretrained {pretrained} {few}")


def dgl_row(**options: Any) -> Row:
    """A row of DGL with DGL's own recipe."""
    return method_row("dgl", recipe="dgl", **options)


def mmtm_row(method: str, variant: str | None = None, **settings: Any) -> Row:
    """A row of a method in a network with MMTM blocks."""
    return method_row(method, variant, blocks="mmtm", **settings)


MMPARETO_BRIDGE = chain(
    Row(FROM_RELEASED, "--method mmpareto --variant released --recipe released", "paper"),
    HELD_OUT,
    ON_VALIDATION,
    Row("First and last frame of short clips in test, random ones in training", "--frame_choice spread"),
    Row("γ on conflict only", "--boost conflict"),
    Row("⟨g_m, g_u⟩ = 0 is no conflict", "--zero_is_conflict false"),
    Row("Conflict and weights per tensor: variant per_tensor", "--variant per_tensor"),
)
DGL_BRIDGE = chain(
    Row(FROM_RELEASED, f"--method dgl --recipe dgl {SPECTROGRAM}", "paper"),
    HELD_OUT,
    ON_VALIDATION,
    Row("First epoch may be chosen, too", "--best_from_epoch 1"),
    Row("Last partial batch kept in evaluation", "--drop_last train"),
    Row("Last partial batch kept in training", "--drop_last none"),
    Row("Learning rate falls after 70 epochs, not 69", "--lr_decay_step 70"),
    Row("A random frame in training, the middle one in test", "--frame_choice spread"),
    Row("Initial weights as in MMPareto's code", "--init mmpareto"),
    Row("Filterbank instead of the spectrogram", "--data {data} --audio fbank --audio_frames 1024"),
    Row("2 frames", "--frames 2"),
    Row("Constant learning rate", "--scheduler none"),
    Row("50 epochs", "--epochs 50"),
    Row("No gradient clipping: recipe released", "--recipe released"),
)

_TABLES = (
    Table(
        "main",
        "Methods on CREMA-D and Kinetics-Sounds",
        "Does any method of balanced multimodal learning beat the plain sum of the losses?",
        (CREMAD, KINETICS_SOUNDS),
        (*unimodal_rows(["cremad"]), *IN_MAIN, *CONTROLS),
        UNIFORM.label,
        f"{ONE_RECIPE}. MMPareto without a further word is the default variant, per_tensor; the released code's is "
        f"MMPareto (released). DGL's published accuracies are of another recipe: see table dgl. {AGM_NOTE} "
        f"{CONTROLS_NOTE}",
    ),
    Table(
        "bridge",
        "From MMPareto as released to MMPareto here",
        "Which of the differences between the released MMPareto code and the default here changes the accuracy?",
        (CREMAD,),
        MMPARETO_BRIDGE,
        FROM_RELEASED,
        f"{BRIDGE_NOTE} The frames matter only for clips of fewer than 4, such as CREMA-D's at 1 fps.",
    ),
    Table(
        "bridge_dgl",
        "From DGL as released to DGL in the main table",
        "Which of the differences between the released DGL code and the recipe of the main table changes the accuracy?",
        (CREMAD,),
        DGL_BRIDGE,
        FROM_RELEASED,
        f"{BRIDGE_NOTE} The first seven changes concern how the released code selects epochs, drops batches, steps its "
        "schedule and reads frames. The others lead to the recipe of the main table, and correct nothing.",
    ),
    Table(
        "dgl",
        "DGL, its three parts and its weight α",
        "Does DGL beat the plain sum of the losses with its own recipe, and do its three parts and α matter?",
        (
            Column("CREMA-D, spectrogram", "--dataset cremad --data {data}-spectrogram"),
            Column("Kinetics-Sounds, 33 classes", "--dataset kinetics_sounds --data {data}-33"),
        ),
        (
            *unimodal_rows(["cremad"], recipe="dgl"),
            *(method_row(method, recipe="dgl") for method in ("joint", "uniform", "mmpareto")),
            dgl_row(),
            *(dgl_row(**{part: False}) for part in ("unimodal_loss", "truncate_joint", "truncate_unimodal")),
            *(dgl_row(alpha=alpha) for alpha in (1, 2, 3, 4, 5, 6)),
        ),
        UNIFORM.label,
        "All rows have DGL's own recipe (--recipe dgl). DGL without a further word has the recipe's α: 4 on CREMA-D, 3 "
        "on Kinetics-Sounds; its row is the run of the same α. Choosing the α that does best here would be choosing on "
        "the test set.",
    ),
    Table(
        "cgmnist",
        "Methods on CG-MNIST",
        "What do the methods do when one modality reveals the class in training but misleads in the test?",
        (Column("CG-MNIST", "--dataset cgmnist"),),
        (*unimodal_rows(["cgmnist"]), *(row for row in IN_MAIN if row in WITHOUT_GREEDY or row in (PAPER, RELEASED)),
         LARGER_STEPS, MIN_NORM),
        UNIFORM.label,
        f"{ONE_RECIPE}. Greedy is left out: it needs an encoder with stages, and the CNN of this data set has none. "
        f"Controls are Uniform (encoder_scale 1.5) and MMPareto (gamma 1, rescale none). {STEPS_NOTE} {AGM_NOTE} "
        "Samples held out for validation have the training set's colours, so an epoch chosen on them need not be good "
        "on the test set.",
    ),
    Table(
        "avdigits",
        "Methods on audio-visual digits",
        "Do the methods help on a small set of real recordings and images, with known and with unheard voices?",
        (
            Column("Official split", "--dataset avdigits"),
            Column("Unheard speaker", "--dataset avdigits --data {data}-speaker"),
        ),
        (
            *unimodal_rows(["avdigits"]),
            *method_rows("joint", "uniform", "pareto", "mmpareto"),
            PAPER,
            RELEASED,
            *method_rows("dgl"),
            LARGER_STEPS,
            MIN_NORM,
            *method_rows("ensemble"),
        ),
        UNIFORM.label,
        f"{ONE_RECIPE}. The official split tests on 300 recordings of the training set's six speakers, so one is 0.33 "
        "points; the other on the 500 of a speaker who is not in training. Controls are Uniform "
        f"(encoder_scale 1.5), MMPareto (gamma 1, rescale none) and the ensemble. {STEPS_NOTE} The "
        "ensemble never lets the joint loss reach an encoder.",
    ),
    Table(
        "field",
        "The methods of the field on CREMA-D and Kinetics-Sounds",
        "Which of all methods for balanced multimodal learning beat the plain sum of the losses, with one recipe?",
        (CREMAD, KINETICS_SOUNDS),
        (*unimodal_rows(["cremad"]), *FIELD),
        UNIFORM.label,
        f"{ONE_RECIPE}. Options are those of each method's paper, and of its code where the paper is not known. "
        "Re-learning acts after 21, 41 and 61 epochs, and SMV from the sixth on: in a shorter run, such as that of "
        "--quick, they are joint training. ReconBoost takes 16 epochs until both modalities have had a stage. The "
        "teachers of UMT are ensembles of the same seed. Re-learning needs a validation set, "
        "and is not trained under --protocol paper; greedy needs encoders with stages.",
    ),
    Table(
        "modelnet40",
        "Methods on ModelNet40",
        "Do the methods help when both modalities are views of the same kind?",
        (Column("ModelNet40", "--dataset modelnet40"),),
        (*unimodal_rows(["modelnet40"]), *COMPARED),
        UNIFORM.label,
        f"{ONE_RECIPE}. {AGM_NOTE}",
    ),
    Table(
        "mosi",
        "Methods with three modalities, on CMU-MOSI",
        "Does the comparison hold for three modalities, and for encoders that are not convolutional?",
        (
            Column("CMU-MOSI, 2 classes", "--dataset mosi --n_classes 2"),
            Column("CMU-MOSI, 7 classes", "--dataset mosi --n_classes 7"),
        ),
        (*unimodal_rows(["mosi"]), *WITHOUT_CONVOLUTIONS),
        UNIFORM.label,
        f"{ONE_RECIPE}. Greedy is left out: it needs convolutional encoders. OGM-GE modulates all weights, as none are "
        f"convolutions. {AGM_NOTE}",
    ),
    Table(
        "modalities",
        "Methods with 2 to 8 modalities",
        "How do cost and accuracy change as the number of modalities grows?",
        tuple(
            Column(f"{count} modalities", f"--dataset modalities --data {{data}}-n{count}") for count in (2, 3, 4, 8)
        ),
        method_rows("uniform", "pareto", "mmpareto", "dgl"),
        UNIFORM.label,
        f"{ONE_RECIPE}. The data are made up: modalities are alternately easy and hard and share half of their "
        "information (docs/data.md), and the first ones are the same in every column. Bayes accuracy is the best that "
        "any method can reach.",
        step_costs=True,
    ),
    Table(
        "fusion",
        "Fusions on CREMA-D",
        "Does the effect of MMPareto depend on how the modalities are fused?",
        tuple(
            Column(label, f"--dataset cremad --fusion {name}")
            for label, name in (("Concatenation", "concat"), ("Sum", "sum"), ("FiLM", "film"), ("Gated", "gated"))
        ),
        method_rows("joint", "uniform", "mmpareto"),
        UNIFORM.label,
        f"{ONE_RECIPE}.",
        data_sets=False,
    ),
    Table(
        "interaction",
        "Methods on encoders that exchange information",
        "Do the methods help where MMTM blocks join the encoders, and what do cross terms change?",
        (
            Column("CREMA-D, spectrogram", "--dataset cremad --data {data}-spectrogram --recipe dgl"),
            Column("Digits, unheard speaker", "--dataset avdigits --data {data}-speaker --encoder resnet18"),
        ),
        (
            *unimodal_rows(["cremad"]),
            *(mmtm_row(method) for method in ("joint", "uniform", "pareto", "gblending", "ogm_ge", "pmr", "agm")),
            method_row("greedy"),
            *(mmtm_row("mmpareto", variant) for variant in (None, "paper", "released")),
            mmtm_row("dgl"),
            *(mmtm_row(method, cross_terms="included") for method in ("pareto", "mmpareto", "dgl")),
        ),
        UNIFORM.label,
        "All rows but those of one modality have ResNet-18 with MMTM blocks after the last three stages; Greedy has "
        "its own. An encoder learns from the joint loss and its own unimodal loss; rows with cross_terms included take "
        "one backward pass for all unimodal losses, so that it also learns from those of the other modalities, as "
        "Uniform does. CREMA-D has DGL's recipe, as in table dgl. The accuracy of a modality alone is that of its "
        "head, which sees the others through the gates.",
    ),
    Table(
        "mbt",
        "Methods in MBT, a transformer with interaction",
        "Do the methods help where the modalities interact inside the encoders, in the transformer MBT?",
        (CREMAD, KINETICS_SOUNDS),
        (
            *(method_row(name, recipe="mbt") for name in ("joint", "uniform", "gblending", "ogm_ge", "pmr", "agm")),
            method_row("mmpareto", recipe="mbt"),
            method_row("mmpareto", "released", recipe="mbt"),
        ),
        UNIFORM.label,
        "All rows have recipe mbt: what the MMPareto paper states of its table 2, else the values of its code for "
        "ResNet-18. Training is from scratch; with --out DIR -- --pretrained FILE, from a ViT's weights. An encoder is "
        "embedding, layers and norm of a modality; bottleneck tokens and classifier take the plain sum. OGM-GE changes "
        "4-D weights, which here are those of the patch embedding alone. Greedy is left out: how the paper applies it "
        "without MMTM blocks is not known. On the synthetic stand-in, the encoder is mbt-tiny.",
    ),
    Table(
        "multitask",
        "Methods of multi-task learning",
        "Do methods made for conflicts between several tasks do as well as MMPareto on the losses of one task?",
        (CREMAD, KINETICS_SOUNDS),
        method_rows("joint", "uniform", "pareto", "gradnorm", "pcgrad", "metabalance", "mmpareto"),
        UNIFORM.label,
        f"{ONE_RECIPE}.",
    ),
    Table(
        "tasks",
        "Several tasks on one encoder, MultiMNIST",
        "Do the methods help where an encoder serves several tasks, and does it matter that one of them is harder?",
        (
            Column("Noise on the right", "--dataset multimnist --data {data}-20k --channels_last"),
            Column("No noise", "--dataset multimnist --data {data}-20k-clean --channels_last"),
        ),
        (
            *unimodal_rows(["multimnist"]),
            *method_rows("uniform", "pareto", "gradnorm", "pcgrad", "metabalance", "mmpareto"),
            PAPER,
            RELEASED,
        ),
        UNIFORM.label,
        f"{ONE_RECIPE}. Accuracy is the mean over the tasks. Unimodal trains one task alone: its accuracy is of that "
        "task, and its difference is from the baseline's accuracy of the same task. The columns differ in the noise on "
        "the right half of the images, which makes the right digit the harder task. MetaBalance takes the first task, "
        "left, as its target.",
    ),
    Table(
        "gamma",
        "The boost γ of MMPareto, and simply larger steps",
        "How much of MMPareto's gain is due to its larger steps, and which γ is best? The paper leaves this open.",
        (CREMAD,),
        (
            UNIFORM,
            *(method_row("mmpareto", gamma=gamma) for gamma in (1, 1.25)),
            MMPARETO,
            *(method_row("mmpareto", gamma=gamma) for gamma in (1.75, 2, 2.5)),
            MIN_NORM,
            method_row("mmpareto", "released", gamma=1),
            RELEASED,
            *(method_row("mmpareto", "released", gamma=gamma) for gamma in (2, 3)),
            *(method_row("uniform", encoder_scale=scale) for scale in (1.5, 2, 3)),
            *(method_row("uniform", learning_rate=rate) for rate in (0.001, 0.003, 0.004, 0.006)),
        ),
        UNIFORM.label,
        "MMPareto without a number has the paper's γ = 1.5. γ = 1 boosts nothing: λ alone restores the gradient's norm "
        "in conflict. With rescale none as well, the min-norm direction is taken as it is. MMPareto (released) applies "
        "γ everywhere: without conflict, its step is that of Uniform with encoder_scale γ, which is its control. Rows "
        "with a learning rate have that instead of the recipe's, which is 0.002 on CREMA-D. Choosing the γ that does "
        "best here would be choosing on the test set.",
    ),
    Table(
        "variants",
        "MMPareto per tensor, as the paper and as the released code",
        "Do the three variants of MMPareto differ in accuracy, and does the recipe decide which is best?",
        (
            Column("Recipe of the released code", "--dataset cremad --recipe released"),
            Column("Recipe of the paper", "--dataset cremad --recipe paper"),
        ),
        (UNIFORM, MMPARETO, PAPER, RELEASED),
        UNIFORM.label,
        "MMPareto without a further word is the default variant, per_tensor. On the synthetic stand-in both recipes "
        "are the same.",
        data_sets=False,
    ),
    Table(
        "preprocessing",
        "Effect of preprocessing and schedule on accuracy",
        "Which of preprocessing, number of frames, schedule and learning rate explains the accuracies that people "
        "report?",
        tuple(Column(row.label, f"--dataset cremad {row.flags}") for row in (UNIFORM, MMPARETO)),
        (
            Row(AS_RELEASED, ""),
            Row("Spectrogram", SPECTROGRAM),
            Row("Clips of few frames: first to last in test, any in training", "--frame_choice spread"),
            Row("Always the first frames", "--frame_choice first"),
            Row("1 frame", "--frames 1"),
            Row("3 frames", "--frames 3"),
            Row("2 frames at 3 fps", "--data {data}-fps3"),
            Row("3 frames at 3 fps", "--data {data}-fps3 --frames 3"),
            Row("Schedule: × 0.1 after 30 epochs", "--scheduler step --lr_decay_step 30"),
            Row("100 epochs", "--epochs 100"),
            Row("Learning rate 0.001", "--learning_rate 0.001"),
            Row("Learning rate 0.01", "--learning_rate 0.01"),
            Row(
                "3 frames at 3 fps, 100 epochs, learning rate 0.001",
                "--data {data}-fps3 --frames 3 --epochs 100 --learning_rate 0.001",
            ),
            Row(
                "As DGL: spectrogram, the first frame, 100 epochs, × 0.1 after 69, gradient clipping, other "
                "initialisation, partial batches dropped, first epoch never chosen",
                f"{SPECTROGRAM} --frames 1 --frame_choice first --epochs 100 --scheduler step --lr_decay_step 69 "
                "--clip_grad 40 --init ogm_ge --drop_last all --best_from_epoch 2",
            ),
        ),
        AS_RELEASED,
        "Each row changes what its label says and nothing else. Differences are from the released preprocessing, with "
        "the same method and seeds. Of clips of 2 or 3 frames, such as CREMA-D's at 1 fps, the released loader reads "
        "frames 1 and 2.",
        data_sets=False,
    ),
    Table(
        "pretraining",
        "Methods of contrastive pre-training on audio-visual digits",
        "Does MMPareto help where the joint loss and the unimodal losses are contrastive, and no label is used?",
        (UNHEARD_SPEAKER,),
        (
            pretraining_row("Random encoders", "dgl --unimodal_loss false"),
            pretraining_row("Unimodal losses alone", "pretrain_finetune --pretrain_epochs 20"),
            *(pretraining_row(name_of(method), method) for method in PRETRAINED),
        ),
        UNIFORM.label,
        "No label is used in training. Accuracies are those of linear probes on the frozen encoders of the last epoch, "
        "fitted with all labels: on the concatenated features, and per modality. The image of a sample was drawn among "
        "those of its digit when the data set was made, so which image goes with which sound tells the digit. Random "
        "encoders learn nothing but the statistics of BatchNorm. Run script/pretraining.sh, which trains these runs "
        "where table finetuning looks for them.",
    ),
    Table(
        "finetuning",
        "Fine-tuning after contrastive pre-training, with a tenth of the labels",
        "Which pre-training is the best start for a supervised run with few labels?",
        (UNHEARD_SPEAKER,),
        (
            finetuning_row("From scratch", "none"),
            *(
                finetuning_row(f"Pre-trained by {name_of(method)}", f"runs/pretraining-{method}-seed{{seed}}/last.pt")
                for method in PRETRAINED
            ),
        ),
        "Pre-trained by Uniform",
        "All rows fine-tune by Uniform with the same recipe, on 22 or 23 samples per class; the samples held out, by "
        "which the epoch is chosen, have labels, too. Each seed starts from the pre-training of the same seed, whose "
        "last.pt script/pretraining.sh makes.",
    ),
    Table(
        "refresh",
        "MMPareto with decisions kept for ten steps",
        "Does the approximation --refresh 10, which costs little more than the baseline, reduce accuracy?",
        (CREMAD,),
        (UNIFORM, PAPER, method_row("mmpareto", "paper", refresh=10)),
        UNIFORM.label,
    ),
    Table(
        "cost",
        "Cost of a training step",
        "How much time and memory does a training step take with each method, compared with the plain sum of the "
        "losses?",
        (),
        method_rows(*NAMES),
        UNIFORM.label,
        "One ResNet-18 per modality, random inputs; needs no runs.",
    ),
)  # fmt: skip
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}


def list_text() -> str:
    """Every table with its question, one per line."""
    return "\n".join(f"{table.name:14} {table.question}" for table in TABLES.values())
