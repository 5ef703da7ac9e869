"""The tables: what each compares, as data. A further one is a further entry of `TABLES`.

Flags are those of train.py, split as a shell does. `{data}` stands for the data set's folder; with an ending of
`DERIVED` behind it, for one that was prepared otherwise.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: what is compared."""

    label: str
    flags: str


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: what it is compared on."""

    label: str
    flags: str


@dataclasses.dataclass(frozen=True)
class Table:
    """What a table compares: each row on each column, over seeds.

    Attributes:
        name: on the command line.
        title: its heading.
        question: that it answers, in a sentence.
        columns: none where the table is no grid of runs (`cost`).
        baseline: the label of the row that the others are compared with.
        note: what a reader has to know of it.
        data_sets: whether the columns are data sets and nothing else, which `--dataset` replaces; of others it
            changes the data set.
    """

    name: str
    title: str
    question: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str
    note: str = ""
    data_sets: bool = True

    def __post_init__(self) -> None:
        if self.baseline not in [row.label for row in self.rows]:
            raise ValueError(f"table {self.name!r} has no row {self.baseline!r}")


# As papers write them; a method that is not here goes by its own name.
LABELS = {
    "joint": "Joint loss",
    "uniform": "Uniform",
    "pareto": "Conventional Pareto",
    "gblending": "G-Blending",
    "ogm": "OGM",
    "ogm_ge": "OGM-GE",
    "greedy": "Greedy",
    "pmr": "PMR",
    "agm": "AGM",
    "mmpareto": "MMPareto",
    "dgl": "DGL",
    "unimodal": "Unimodal",
    "pretrain_finetune": "Pretrain, then fine-tune",
    "gradnorm": "GradNorm",
    "pcgrad": "PCGrad",
    "metabalance": "MetaBalance",
}

# What data of another kind are prepared with: the end of their folder's name → flags of prepare.py.
DERIVED = {"-fps3": "--fps 3", "-spectrogram": "--audio spectrogram"}

# Told to every run, so that a report has the gradients' figures; costs about a twentieth of the time.
RECORDS = "--record-gradients 20"

# --quick: what every cell is told last, and how large its stand-in is. Sizes at which a run takes seconds.
QUICK = "--epochs 2 --image_size 32 --audio_pool 8 8 --batch_size 16"
QUICK_SEEDS = (0, 1)
QUICK_STAND_IN = {"clips": 72, "actors": 6}

CREMAD = Column("CREMA-D", "--dataset cremad")
KINETICS_SOUNDS = Column("Kinetics-Sounds", "--dataset kinetics_sounds")
UNIFORM = LABELS["uniform"]
ONE_RECIPE = "Every row is trained by the same recipe, so that methods are compared and not schedules"


def method_rows(*names: str) -> tuple[Row, ...]:
    """A row a method, with its default options; "mmpareto:paper" for a variant."""
    return tuple(method_row(name) for name in names)


def method_row(name: str) -> Row:
    """The row of a method, or of "method:variant"."""
    if name.startswith("torchjd:"):
        return Row(f"TorchJD {name.removeprefix('torchjd:')}", f"--method {name}")
    method, _, variant = name.partition(":")
    label = LABELS.get(method, method)
    if not variant:
        return Row(label, f"--method {method}")
    return Row(f"{label} ({variant})", f"--method {method} --variant {variant}")


def gamma_row(gamma: float) -> Row:
    """MMPareto with this boost."""
    return Row(f"MMPareto, γ = {gamma:g}", f"--method mmpareto --gamma {gamma:g}")


COMPARED = method_rows(
    "joint", "uniform", "pareto", "gblending", "ogm_ge", "greedy", "pmr", "agm", "mmpareto", "dgl"
)  # fmt: skip
WITHOUT_GREEDY = tuple(row for row in COMPARED if row.label != LABELS["greedy"])

_TABLES = (
    Table(
        "main",
        "Methods on CREMA-D and Kinetics-Sounds",
        "Does any method of balanced multimodal learning beat simply adding up the losses?",
        (CREMAD, KINETICS_SOUNDS),
        COMPARED,
        UNIFORM,
        f"{ONE_RECIPE}: DGL's published figures are of a recipe of its own (script/dgl.sh).",
    ),
    Table(
        "cgmnist",
        "Methods on CG-MNIST",
        "What do the methods do where one modality tells the class in training and misleads in the test?",
        (Column("CG-MNIST", "--dataset cgmnist"),),
        WITHOUT_GREEDY,
        UNIFORM,
        f"{ONE_RECIPE}. Greedy is left out: its blocks need an encoder in stages, and this data set's CNN has none.",
    ),
    Table(
        "modelnet40",
        "Methods on ModelNet40",
        "Do the methods help where both modalities are views of the same kind?",
        (Column("ModelNet40", "--dataset modelnet40"),),
        COMPARED,
        UNIFORM,
        f"{ONE_RECIPE}.",
    ),
    Table(
        "mosi",
        "Methods with three modalities, on CMU-MOSI",
        "Does the comparison hold for three modalities, and for encoders that are no convolutional networks?",
        (
            Column("CMU-MOSI, 2 classes", "--dataset mosi --n_classes 2"),
            Column("CMU-MOSI, 7 classes", "--dataset mosi --n_classes 7"),
        ),
        WITHOUT_GREEDY,
        UNIFORM,
        f"{ONE_RECIPE}. Greedy is left out: its blocks need convolutional encoders.",
    ),
    Table(
        "fusion",
        "Fusions on CREMA-D",
        "Does what MMPareto does depend on how the modalities are fused?",
        tuple(
            Column(label, f"--dataset cremad --fusion {name}")
            for label, name in (("Concatenation", "concat"), ("Sum", "sum"), ("FiLM", "film"), ("Gated", "gated"))
        ),
        method_rows("joint", "uniform", "mmpareto"),
        UNIFORM,
        f"{ONE_RECIPE}.",
        data_sets=False,
    ),
    Table(
        "multitask",
        "Methods of multi-task learning",
        "Do methods made for the conflicts of several tasks do as well as MMPareto on the losses of one?",
        (CREMAD, KINETICS_SOUNDS),
        method_rows("uniform", "gradnorm", "pcgrad", "metabalance", "mmpareto"),
        UNIFORM,
        f"{ONE_RECIPE}.",
    ),
    Table(
        "gamma",
        "The boost γ of MMPareto",
        "How much of MMPareto's gain is its larger step, and which γ is best: the question that the paper leaves open?",
        (CREMAD,),
        (method_row("uniform"), *(gamma_row(gamma) for gamma in (1, 1.25, 1.5, 1.75, 2, 2.5))),
        UNIFORM,
        "γ = 1 restores the magnitude and boosts nothing; 1.5 is the paper's. To take the γ that does best here is to "
        "choose on the test set.",
    ),
    Table(
        "variants",
        "MMPareto as the brief, the paper and the released code have it",
        "Do the three readings of MMPareto differ in accuracy, and does the recipe decide which is best?",
        (
            Column("Recipe of the released code", "--dataset cremad --recipe released"),
            Column("Recipe of the paper", "--dataset cremad --recipe paper"),
        ),
        method_rows("uniform", "mmpareto:per_tensor", "mmpareto:paper", "mmpareto:released"),
        UNIFORM,
        "On the synthetic stand-in both recipes are the same.",
        data_sets=False,
    ),
    Table(
        "preprocessing",
        "What preprocessing and schedule make of the accuracy",
        "Which of preprocessing, frames, schedule and learning rate explains the accuracies that people report?",
        (
            Column(UNIFORM, "--dataset cremad --method uniform"),
            Column("MMPareto", "--dataset cremad --method mmpareto"),
        ),
        (
            Row("As released: filterbank, 2 frames at 1 fps", ""),
            Row("Spectrogram", "--data {data}-spectrogram --audio spectrogram --audio_frames 188"),
            Row("1 frame", "--frames 1"),
            Row("3 frames", "--frames 3"),
            Row("2 frames at 3 fps", "--data {data}-fps3"),
            Row("3 frames at 3 fps", "--data {data}-fps3 --frames 3"),
            Row("Schedule: a tenth after 30 epochs", "--scheduler step --lr_decay_step 30"),
            Row("100 epochs", "--epochs 100"),
            Row("Learning rate 0.001", "--learning_rate 0.001"),
            Row("Learning rate 0.01", "--learning_rate 0.01"),
            Row(
                "3 frames at 3 fps, 100 epochs, learning rate 0.001",
                "--data {data}-fps3 --frames 3 --epochs 100 --learning_rate 0.001",
            ),
            Row(
                "As DGL: spectrogram, 1 frame, 100 epochs, a tenth after 70, clipping",
                "--data {data}-spectrogram --audio spectrogram --audio_frames 188 --frames 1 --epochs 100 "
                "--scheduler step --lr_decay_step 70 --clip_grad 40",
            ),
        ),
        "As released: filterbank, 2 frames at 1 fps",
        "Each row changes what it says and nothing else. Differences are to the released preprocessing, by the same "
        "method and seeds.",
        data_sets=False,
    ),
    Table(
        "refresh",
        "MMPareto with decisions that are kept for ten steps",
        "Does the approximation --refresh 10, which costs little more than the baseline, cost accuracy?",
        (CREMAD,),
        (
            *method_rows("uniform", "mmpareto:paper"),
            Row("MMPareto (paper, refresh 10)", "--method mmpareto --variant paper --refresh 10"),
        ),
        UNIFORM,
    ),
    Table(
        "cost",
        "What a training step costs",
        "How many seconds and how much memory does a step by each method take, beside the plain sum of the losses?",
        (),
        method_rows(*LABELS),
        UNIFORM,
        "ResNet-18 for each modality, random inputs; no run is needed for it.",
    ),
)  # fmt: skip
TABLES: dict[str, Table] = {table.name: table for table in _TABLES}


def list_text() -> str:
    """Every table with the question that it answers."""
    return "\n".join(f"{table.name:14} {table.question}" for table in TABLES.values())
