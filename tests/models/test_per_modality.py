"""Choices per modality: the words of --encoder and --pretrained."""

from pathlib import Path

import pytest
from mmpareto.errors import InputError
from mmpareto.models.per_modality import (
    canonical,
    choose_encoders,
    choose_files,
    encoder_name,
    is_pretrained,
    kind_of,
    names_of_files,
    split,
)

SHAPES = {"notes": (7, 9), "scan": (1, 8, 8), "film": (2, 3, 8, 8), "vitals": (5,)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ResNet-18"], "resnet18"),
        ("cnn", "cnn"),
        (["b=CNN", "a=resnet34"], ("a=resnet34", "b=cnn")),
        (["b=mlp", "Auto"], ("auto", "b=mlp")),
        (["a=timm:vit_tiny_patch16_224"], ("a=timm:vit_tiny_patch16_224",)),
        (["hf:models/a=b"], "hf:models/a=b"),
    ],
)
def test_words_have_one_spelling(words: list[str], expected: object) -> None:
    assert canonical(words, "encoder", encoder_name) == expected


@pytest.mark.parametrize("words", [["cnn", "mlp"], ["a=cnn", "a=mlp"], ["cnn", "a=mlp", "mlp"]])
def test_two_values_for_the_same_modalities_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="two values for the same modalities"):
        canonical(words, "encoder", encoder_name)


def test_unknown_encoders_are_refused_per_modality() -> None:
    with pytest.raises(InputError, match=r"'resnet19'. Did you mean 'resnet18'.*timm:NAME, hf:NAME"):
        canonical(["a=resnet19"], "encoder", encoder_name)


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1.pth").touch()
    assert split("lr=0.1.pth") == ("lr=0.1.pth", {})
    assert split(("x.pth", "a=y=z.pth")) == ("x.pth", {"a": "y=z.pth"})


def test_auto_follows_the_kind_of_input() -> None:
    expected = {"notes": "transformer", "scan": "resnet18", "film": "resnet18", "vitals": "mlp"}
    assert choose_encoders("auto", SHAPES) == expected
    assert choose_encoders(("auto", "scan=cnn", "film=resnet50"), SHAPES) == expected | {
        "scan": "cnn",
        "film": "resnet50",
    }
    assert [kind_of(shape) for shape in SHAPES.values()] == ["sequences", "images", "clips", "vectors"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("auto", "film=cnn"), r"cnn takes images \(C, H, W\), but film has clips of frames .*; take resnet18"),
        ("mlp", r"mlp takes vectors \(F\), but notes has sequences \(T, F\); take transformer"),
        (("auto", "vitals=resnet34"), r"resnet34 takes images .* or clips .*, but vitals has vectors .*; take mlp"),
        (("notes=transformer",), "none for scan: add scan=resnet18"),
        (("auto", "note=mlp"), "--encoder names note, but the data has notes and scan and film and vitals"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(choice: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_encoders(choice, SHAPES)


def test_a_network_of_one_modality_ignores_the_encoders_of_others() -> None:
    one = {"scan": SHAPES["scan"]}
    choice = ("film=resnet18", "scan=cnn")
    assert choose_encoders(choice, one, all_modalities=False) == {"scan": "cnn"}
    assert choose_files(("film=a.pth",), ["scan"], all_modalities=False) == {}


def test_files_are_for_the_modalities_that_are_named_or_for_all() -> None:
    assert choose_files(None, ["a", "b"]) == {}
    assert choose_files("x.pth", ["a", "b"]) == {"a": Path("x.pth"), "b": Path("x.pth")}
    assert choose_files(("b=y.pth",), ["a", "b"]) == {"b": Path("y.pth")}
    assert names_of_files(("weights/x.pth", "b=weights/y.pth")) == "x.pth b=y.pth"
    with pytest.raises(InputError, match="--pretrained names c, but the data has a and b"):
        choose_files(("c=y.pth",), ["a", "b"])


def test_an_encoder_of_a_folder_is_pretrained() -> None:
    assert is_pretrained("hf:folder", None) and is_pretrained(["cnn", "a=hf:folder"], None)
    assert is_pretrained("cnn", "x.pth") and not is_pretrained("timm:resnet10t", None)
