"""The options of every method on the command line, and the list of methods."""

import importlib
import inspect
import re
from typing import Any

import pytest
from mmpareto import METHODS, MMPareto
from mmpareto.errors import InputError
from mmpareto.integration.methods.torchjd import TorchJD
from mmpareto.training.method_options import make_method, methods_text, read_options
from mmpareto.training.settings import Settings, from_config, parse, parser, to_config


def settings(line: str) -> Settings:
    return parse(["--dataset", "cremad", *line.split()]).settings


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--method ogm --alpha 0.1 --modulation_ends=7", {"alpha": 0.1, "modulation_starts": 0, "modulation_ends": 7}),
        ("--method mmpareto --variant released --gamma 2", {"gamma": 2.0, "weights": "encoder", "boost": "always"}),
        ("--variant released --zero_is_conflict false", {"zero_is_conflict": False, "rescale": "parameter"}),
        ("--method pmr", {"factor": "clipped", "mu": 0.01}),
        ("--method pmr --variant released --mu 0.5", {"factor": "one", "mu": 0.5, "momentum_starts": 2}),
        ("--method agm", {"ratio": "released", "limit": 7.0, "response": "observed", "modulation_ends": None}),
        ("--method agm --variant paper", {"ratio": "paper", "floor": 0.0, "clip_above": None}),
        ("--method agm --variant released", {"ratio": "released", "limit": 10.0, "response": "descended"}),
        ("--method ogm --modulated weights --score zeroed", {"modulated": "weights", "score": "zeroed"}),
        ("--method unimodal --modality audio", {"modality": "audio"}),
        ("--method unimodal", {"modality": None}),
        ("--method pretrain_finetune --pretrain_epochs 3", {"pretrain_epochs": 3}),
        ("--method uniform", {}),
        ("--method gblending --mode online --every 4", {"mode": "online", "every": 4, "trial_epochs": 0}),
    ],
)
def test_options_override_the_variant_and_the_class_defaults(line: str, expected: dict[str, Any]) -> None:
    parsed = settings(line)
    assert {name: parsed.options[name] for name in expected} == expected
    method = make_method(parsed.method, parsed.options)
    assert type(method) is METHODS[parsed.method]
    assert {name: getattr(method, name) for name in expected} == expected
    assert from_config({"arguments": to_config(parsed)}) == parsed


def test_an_older_run_of_agm_has_the_same_settings_as_a_new_one_of_its_formula() -> None:
    """Before the default sign changed, the printed formula was the default, and `released` had only the other sign."""
    new = to_config(settings("--method agm --variant paper"))
    for variant, ratio in (("paper", "paper"), ("released", "released")):
        recorded = new | {"variant": variant, "options": {"alpha": 1.0, "limit": 7.0, "ratio": ratio}}
        loaded = from_config({"arguments": recorded})
        assert loaded.variant == variant and loaded.options == new["options"] | {"ratio": ratio}
        method = make_method("agm", loaded.options)
        assert (method.ratio, method.floor, method.response, method.clip_above) == (ratio, 0.0, "observed", None)
    assert (
        to_config(from_config({"arguments": new | {"options": {"alpha": 1.0, "limit": 7.0, "ratio": "paper"}}})) == new
    )


def test_the_first_variant_is_the_default() -> None:
    for name, kind in METHODS.items():
        parsed = settings(f"--method {name}")
        assert parsed.variant == next(iter(kind.variants), None)
        for option, value in kind.variants.get(parsed.variant, {}).items():
            assert parsed.options[option] == value


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("--gama 2", r"unknown flag --gama\. Did you mean --gamma\?"),
        ("--method ogm --alhpa 2", r"unknown flag --alhpa\. Did you mean --alpha\?"),
        ("--epoch 2", r"unknown flag --epoch\. Did you mean --epochs\?"),
        ("--method joint --gamma 2", r"--gamma is an option of mmpareto, not of method 'joint'"),
        ("--method uniform --variant per_tensor", "method 'uniform' has no variant 'per_tensor'; it has none"),
        ("--variant papers", "no variant 'papers'; it has per_tensor, paper, released"),
        ("stray", "unknown word 'stray'"),
        ("--gamma 0", "gamma must be a positive number, not 0.0"),
        ("--gamma inf", "gamma must be a positive number"),
        ("--weights parameter --rescale encoder", "has no meaning"),
        ("--weights tensor", "weights must be 'parameter' or 'encoder'"),
        ("--method dgl --alpha -1", "alpha must be a positive number"),
        ("--method greedy --window 0", "window must be at least 1"),
        ("--method torchjd:UPGad", "no aggregator 'UPGad': did you mean UPGrad"),
        ("--method torchjd:Krum", "needs --n_byzantine"),
        ("--method torchjd:Constant --weights 0.3,x", "'0.3,x' is not a number"),
    ],
)
def test_bad_options_give_a_one_line_error(line: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        settings(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["--gamma much", "--gamma", "--zero_is_conflict perhaps", "--method ogm --alpha x"])
def test_values_of_the_wrong_type_exit_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        settings(line)
    assert error.value.code == 2 and "argument --" in capsys.readouterr().err


def test_aggregators_of_torchjd_have_their_own_options() -> None:
    pytest.importorskip("torchjd")
    parsed = settings("--method TorchJD:AlignedMTL --scale_mode median --pref_vector 1,2")
    assert parsed.method == "torchjd:AlignedMTL" and parsed.name == "cremad-torchjd-AlignedMTL-seed0"
    assert parsed.options == {"pref_vector": "1,2", "scale_mode": "median"}
    method = make_method(parsed.method, parsed.options)
    assert method.options["pref_vector"].tolist() == [1, 2]
    assert settings("--method torchjd:CAGrad --c 0.5").options == {"c": 0.5, "norm_eps": 1e-4}
    with pytest.raises(SystemExit):
        settings("--method torchjd:AlignedMTL --scale_mode mode")


def test_an_option_may_take_several_words_which_config_json_keeps() -> None:
    parsed = settings("--method umt --teachers runs/a runs/b --epochs 3")
    assert parsed.options == {"distillation_weight": 10.0, "teachers": ["runs/a", "runs/b"]} and parsed.epochs == 3
    again = from_config({"arguments": to_config(parsed)})
    assert again == parsed and make_method("umt", again.options).teachers == ("runs/a", "runs/b")
    assert "--teachers (unset)" in methods_text()


def test_without_torchjd_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("torchjd"):
            raise ImportError(name)
        return original(name, *rest)

    TorchJD.of.cache_clear()
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"--method torchjd:UPGrad: .*pip install torchjd"):
        settings("--method torchjd:UPGrad")
    assert "pip install torchjd" in methods_text()
    TorchJD.of.cache_clear()


def options_of(name: str) -> set[str]:
    return set(inspect.signature(METHODS[name]).parameters)


def test_no_option_has_the_name_of_another_flag() -> None:
    flags = {action.dest for action in parser()._actions}
    for name in [*METHODS, *(f"torchjd:{aggregator}" for aggregator in TorchJD.known())]:
        assert not options_of(name) & flags, name


def test_list_methods_describes_every_method_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse(["--list_methods"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    paragraphs = dict(re.findall(r"^(\S+)\n((?:    .*\n?)+)", text, flags=re.MULTILINE))
    assert set(paragraphs) == {*METHODS, "torchjd:NAME"}
    for name, kind in METHODS.items():
        paragraph = " ".join(paragraphs[name].split())
        assert kind.__doc__.splitlines()[0] in paragraph and kind.source in paragraph
        for option in options_of(name):
            assert f"--{option} " in paragraph
        for variant in kind.variants:
            assert variant in paragraph


def test_a_subclass_with_other_arguments_has_no_variants_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adaptive(MMPareto):
        """MMPareto with one option of its own."""

        def __init__(self, decay: float = 0.9) -> None:
            super().__init__()
            self.decay = decay

    class Renamed(MMPareto):
        """MMPareto under another name."""

    monkeypatch.setattr("mmpareto.training.method_options._class", {"adaptive": Adaptive, "renamed": Renamed}.get)
    assert read_options("adaptive", None, ["--decay", "0.5"], []) == (None, {"decay": 0.5, "refresh": 1})
    assert read_options("renamed", "paper", [], [])[1]["rescale"] == "encoder"
    assert Adaptive.without_effect == {} and Renamed.without_effect == MMPareto.without_effect
