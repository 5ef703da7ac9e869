"""A plug-in for mmpareto: a data set, an encoder, a fusion, a method, a recipe and a table, all from outside.

Importing the plug-in only registers names. The modules that need PyTorch are imported when one of the names is used,
so that `--help` stays fast.
"""

from mmpareto.analysis.tables.definitions import TABLES
from mmpareto.data import DATASETS
from mmpareto.integration import METHODS
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.training.method_labels import NAMES
from mmpareto.training.recipes import RECIPES

from digits_plugin.experiments import RECIPE, TABLE

DATASETS.add("digits", "digits_plugin.data:Digits")
ENCODERS.add("gru", "digits_plugin.encoder:GRU")
FUSIONS.add("max", "digits_plugin.fusion:MaxFusion")
METHODS.add("equal_norms", "digits_plugin.method:EqualNorms")
NAMES["equal_norms"] = "Equal norms"  # in tables and plots
RECIPES["digits"] = {"digits": RECIPE}
TABLES["digits"] = TABLE
