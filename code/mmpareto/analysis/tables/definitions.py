"""The tables of experiments, as data. To add one, add an entry to `_TABLES`.

Flags are those of train.py, in one string that is split as a shell would. `{data}` stands for the folder of the data
set; followed by a suffix of `DERIVED`, for the folder of the same data prepared with other flags.
"""

import dataclasses

from mmpareto.training.method_labels import NAMES, name_of


@dataclasses.dataclass(frozen=True)
class Row:
    """One of the things that a table compares."""

    label: str
    flags: str


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
        data_sets: whether each column is a data set and nothing else. `--dataset` replaces such columns; of others, it
            replaces the data set.
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


def method_row(method: str, variant: str | None = None, **options: float) -> Row:
    """The row of a method, with the label that its runs have in plots (`method_labels.label`).

    Arguments:
        variant, options: only where they are not the method's default, which a label does not mention.
    """
    flags = f"--method {method}" + (f" --variant {variant}" if variant else "")
    flags += "".join(f" --{name} {value:g}" for name, value in options.items())
    details = [variant] if variant else []
    details += [f"{name} {value:g}" for name, value in options.items()]
    return Row(name_of(method) + (f" ({', '.join(details)})" if details else ""), flags)


def method_rows(*methods: str) -> tuple[Row, ...]:
    """One row per method, with its default options."""
    return tuple(method_row(method) for method in methods)


# Suffix of a data folder's name → the flags of prepare.py that the data was prepared with.
DERIVED = {"-fps3": "--fps 3", "-spectrogram": "--audio spectrogram"}

# Passed to every run, so that the report can show norms and conflicts of the gradients; takes 5% of the time.
RECORD = "--record_gradients 20"

# --quick: flags of every run, seeds, and size of the stand-in, such that a run takes seconds.
QUICK = "--epochs 2 --image_size 32 --audio_pool 8 8 --batch_size 16"
QUICK_SEEDS = (0, 1)
QUICK_STAND_IN = {"clips": 72, "actors": 6}

CREMAD = Column("CREMA-D", "--dataset cremad")
KINETICS_SOUNDS = Column("Kinetics-Sounds", "--dataset kinetics_sounds")
UNIFORM, MMPARETO = method_row("uniform"), method_row("mmpareto")
ONE_RECIPE = "All rows are trained with the same recipe, so that the methods are compared and not their schedules"

COMPARED = method_rows(
    "joint", "uniform", "pareto", "gblending", "ogm_ge", "greedy", "pmr", "agm", "mmpareto", "dgl"
)  # fmt: skip
WITHOUT_GREEDY = tuple(row for row in COMPARED if row != method_row("greedy"))
AS_RELEASED = "As released: filterbank, 2 frames at 1 fps"

_TABLES = (
    Table(
        "main",
        "Methods on CREMA-D and Kinetics-Sounds",
        "Does any method of balanced multimodal learning beat the plain sum of the losses?",
        (CREMAD, KINETICS_SOUNDS),
        COMPARED,
        UNIFORM.label,
        f"{ONE_RECIPE}. DGL's published accuracies are of another recipe (script/dgl.sh).",
    ),
    Table(
        "cgmnist",
        "Methods on CG-MNIST",
        "What do the methods do when one modality reveals the class in training but misleads in the test?",
        (Column("CG-MNIST", "--dataset cgmnist"),),
        WITHOUT_GREEDY,
        UNIFORM.label,
        f"{ONE_RECIPE}. Greedy is left out: it needs an encoder with stages, and the CNN of this data set has none.",
    ),
    Table(
        "modelnet40",
        "Methods on ModelNet40",
        "Do the methods help when both modalities are views of the same kind?",
        (Column("ModelNet40", "--dataset modelnet40"),),
        COMPARED,
        UNIFORM.label,
        f"{ONE_RECIPE}.",
    ),
    Table(
        "mosi",
        "Methods with three modalities, on CMU-MOSI",
        "Does the comparison hold for three modalities, and for encoders that are not convolutional?",
        (
            Column("CMU-MOSI, 2 classes", "--dataset mosi --n_classes 2"),
            Column("CMU-MOSI, 7 classes", "--dataset mosi --n_classes 7"),
        ),
        WITHOUT_GREEDY,
        UNIFORM.label,
        f"{ONE_RECIPE}. Greedy is left out: it needs convolutional encoders.",
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
        "multitask",
        "Methods of multi-task learning",
        "Do methods made for conflicts between several tasks do as well as MMPareto on the losses of one task?",
        (CREMAD, KINETICS_SOUNDS),
        method_rows("uniform", "gradnorm", "pcgrad", "metabalance", "mmpareto"),
        UNIFORM.label,
        f"{ONE_RECIPE}.",
    ),
    Table(
        "gamma",
        "The boost γ of MMPareto",
        "How much of MMPareto's gain is due to its larger steps, and which γ is best? The paper leaves this open.",
        (CREMAD,),
        (
            UNIFORM,
            *(method_row("mmpareto", gamma=gamma) for gamma in (1, 1.25)),
            MMPARETO,
            *(method_row("mmpareto", gamma=gamma) for gamma in (1.75, 2, 2.5)),
        ),
        UNIFORM.label,
        "γ = 1 restores the gradient's norm and boosts nothing; MMPareto without a number has the paper's 1.5. "
        "Choosing the γ that does best here would be choosing on the test set.",
    ),
    Table(
        "variants",
        "MMPareto per tensor, as the paper and as the released code",
        "Do the three variants of MMPareto differ in accuracy, and does the recipe decide which is best?",
        (
            Column("Recipe of the released code", "--dataset cremad --recipe released"),
            Column("Recipe of the paper", "--dataset cremad --recipe paper"),
        ),
        (UNIFORM, MMPARETO, method_row("mmpareto", "paper"), method_row("mmpareto", "released")),
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
            Row("Spectrogram", "--data {data}-spectrogram --audio spectrogram --audio_frames 188"),
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
                "As DGL: spectrogram, 1 frame, 100 epochs, × 0.1 after 70, gradient clipping",
                "--data {data}-spectrogram --audio spectrogram --audio_frames 188 --frames 1 --epochs 100 "
                "--scheduler step --lr_decay_step 70 --clip_grad 40",
            ),
        ),
        AS_RELEASED,
        "Each row changes what its label says and nothing else. Differences are from the released preprocessing, with "
        "the same method and seeds.",
        data_sets=False,
    ),
    Table(
        "refresh",
        "MMPareto with decisions kept for ten steps",
        "Does the approximation --refresh 10, which costs little more than the baseline, reduce accuracy?",
        (CREMAD,),
        (UNIFORM, method_row("mmpareto", "paper"), method_row("mmpareto", "paper", refresh=10)),
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
