"""The public names: the same for Python, which imports them on first use, and for type checkers."""

import ast
import importlib
import inspect
from pathlib import Path

import mmpareto
import mmpareto.integration
import pytest


def imports_of_type_checkers() -> dict[str, str]:
    """Name → module, of the imports under `if TYPE_CHECKING:`; each has the form that exports it, `A as A`."""
    tree = ast.parse(Path(inspect.getfile(mmpareto.integration)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [(alias, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.name == alias.asname for alias, _ in imports)
    return {alias.name: module or "" for alias, module in imports}


def test_type_checkers_see_the_classes_that_python_imports() -> None:
    """A new method is missing here until it is imported for type checkers too."""
    modules = imports_of_type_checkers()
    assert {"METHODS", *modules} == set(mmpareto.integration.__all__) == set(mmpareto.__all__) - {"load"}
    for name, module in modules.items():
        assert getattr(mmpareto, name) is getattr(importlib.import_module(module), name)
    for name, kind in mmpareto.METHODS.items():
        assert getattr(mmpareto, kind.__name__) is kind, name


@pytest.mark.parametrize("package", [mmpareto, mmpareto.integration])
def test_dir_and_star_give_the_public_names(package) -> None:
    expected = {"METHODS", "MMPareto", "DGL", "Refresh", "TorchJD", "Method", "Report", "EncoderReport"}
    assert expected | {"MeanReducer", "SumReducer"} <= set(dir(package)) == set(package.__all__)
    assert not [name for name in dir(package) if name.startswith("_")]
    names: dict[str, object] = {}
    exec(f"from {package.__name__} import *", names)
    assert names.keys() - {"__builtins__"} == set(package.__all__)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(ImportError, match="Misspelt"):
        exec("from mmpareto import Misspelt")
    with pytest.raises(KeyError):
        mmpareto.METHODS["misspelt"]
