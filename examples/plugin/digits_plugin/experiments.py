"""A recipe and a table: both are data."""

from mmpareto.analysis.tables.definitions import Column, Table, method_row, method_rows
from mmpareto.training.recipes import DEFAULT, Value

CHOSEN = "chosen for this example"
RECIPE = DEFAULT | {
    "encoder": Value(("rows=gru", "profile=mlp"), CHOSEN),
    "epochs": Value(10, CHOSEN),
    "learning_rate": Value(0.003, CHOSEN),
}
TABLE = Table(
    "digits",
    "Equal norms and other methods on UCI digits",
    "Does it help to give the joint and the unimodal gradient the same norm?",
    (Column("UCI digits", "--dataset digits"), Column("UCI digits, maximum", "--dataset digits --fusion max")),
    (*method_rows("uniform", "mmpareto", "equal_norms"), method_row("equal_norms", strength=0.5)),
    "Uniform",
)
