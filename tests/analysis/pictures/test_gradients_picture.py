"""The picture of a run's gradients, from records whose gradients the test knows."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmpareto.analysis.gradient_records import read_run, spread
from mmpareto.analysis.pictures.gradients import gradients_figure
from mmpareto.errors import InputError
from PIL import Image

SIZES = (7, 3, 12)  # elements of the layers
LAYERS = ("conv.weight", "conv.bias", "fc.weight")


def write_run(folder: Path, *, steps: int = 5, joint_only: bool = False, report: bool = True, **more: Any) -> Path:
    """A run's folder, with records of random gradients, which lie beside them as `truth.npz`: (steps, 2, elements)."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"arguments": {}}))
    random = np.random.default_rng(0)
    content: dict[str, Any] = {
        "step": np.arange(steps) * 10 + 1,
        "epoch": np.arange(steps) // 2 + 1,
        "modalities": np.array(["sound", "touch"]),
        "objectives": np.array(["joint"] if joint_only else ["joint", "unimodal"]),
        **{"dataset": "made", "method": "mine", "seed": 7, "every": 10, "banner": ""},
    }
    truth = {}
    for modality in ("sound", "touch"):
        gradients = truth[modality] = random.standard_normal((steps, 2, sum(SIZES)))
        pieces = np.split(gradients, np.cumsum(SIZES)[:-1], axis=2)
        norms = np.stack([np.linalg.norm(piece, axis=2) for piece in pieces], axis=2)
        inner = np.stack([(piece[:, 0] * piece[:, 1]).sum(1) for piece in pieces], axis=1)
        content |= {f"layers_{modality}": np.array(LAYERS), f"norm_joint_{modality}": norms[:, 0].astype("f4")}
        if not joint_only:
            content[f"norm_unimodal_{modality}"] = norms[:, 1].astype("f4")
            content[f"cosine_{modality}"] = (inner / norms.prod(1)).astype("f4")
        if report:
            content[f"weights_{modality}"] = random.uniform(0, 1, (steps, 3, 2)).astype("f4")
            content[f"rescale_{modality}"] = random.uniform(1, 3, (steps, 3)).astype("f4")
    np.savez(folder / "gradients.npz", **(content | more))
    np.savez(folder / "truth.npz", **truth)
    return folder


def labels(figure: Any) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def texts(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def line(figure: Any, row: str, label: str) -> np.ndarray:
    """The heights of a line in the first column."""
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == row]
    (found,) = [one for one in axes.lines if one.get_label().startswith(label)]
    return np.asarray(found.get_ydata())


def test_its_lines_are_the_norms_and_the_cosine_of_the_whole_gradients(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    figure = gradients_figure(read_run(folder))
    with np.load(folder / "truth.npz") as truth:
        joint, unimodal = truth["sound"][:, 0], truth["sound"][:, 1]
    norms = np.linalg.norm(joint, axis=1), np.linalg.norm(unimodal, axis=1)
    assert line(figure, "norm", "joint") == pytest.approx(norms[0], rel=1e-5)
    assert line(figure, "norm", "unimodal") == pytest.approx(norms[1], rel=1e-5)
    cosine = (joint * unimodal).sum(1) / (norms[0] * norms[1])
    assert line(figure, "cosine", "whole") == pytest.approx(cosine, abs=1e-5)
    layers = np.load(folder / "gradients.npz")["cosine_sound"]
    assert line(figure, "cosine", "layers") == pytest.approx(np.sort(layers, axis=1)[:, 1])  # three: the middle one
    assert line(figure, "in conflict", "share") == pytest.approx((layers < 0).sum(1) / 3)
    weights = np.load(folder / "gradients.npz")["weights_sound"]
    assert line(figure, "weight α", "unimodal") == pytest.approx(np.sort(weights[..., 1], axis=1)[:, 1])


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, ["cosine", "cosine by layer", "in conflict", "norm", "weight α", "λ"]),
        ({"report": False}, ["cosine", "cosine by layer", "in conflict", "norm"]),
        ({"report": False, "joint_only": True}, ["norm"]),
        ({"steps": 1}, ["cosine", "cosine by layer", "in conflict", "norm", "weight α", "λ"]),
    ],
)
def test_it_has_a_row_for_each_kind_of_figure_that_was_recorded(
    options: dict[str, Any], rows: list[str], tmp_path: Path
) -> None:
    figure = gradients_figure(read_run(write_run(tmp_path / "run", **options)))
    assert [label for label in labels(figure) if label in rows] == rows
    assert set(labels(figure)) - set(rows) <= {"cosine"}  # the colour bar's
    figure.savefig(tmp_path / "x.png")


def test_it_says_data_set_method_seed_and_what_must_be_said_of_the_data(tmp_path: Path) -> None:
    plain = gradients_figure(read_run(write_run(tmp_path / "plain")))
    title = plain.get_suptitle()
    assert "made" in title and "mine" in title and "seed 7" in title and not plain.get_supxlabel()
    marked = gradients_figure(read_run(write_run(tmp_path / "marked", banner="SYNTHETIC DATA: made up. Nothing.")))
    assert marked.get_supxlabel().replace("\n", " ") == "SYNTHETIC DATA: made up. Nothing."
    marked.draw_without_rendering()
    box = marked._supxlabel.get_window_extent()  # type: ignore[attr-defined]
    assert box.x0 >= 0 and box.x1 <= marked.bbox.width and box.y0 >= 0, "the warning is cut off"


def test_a_long_runs_points_are_medians_of_successive_records(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=500)
    figure = gradients_figure(read_run(folder))
    with np.load(folder / "truth.npz") as truth:
        norms = np.linalg.norm(truth["sound"][:, 0], axis=1)
    expected = [np.sort(norms[start : start + 3])[1] for start in range(0, 498, 3)] + [norms[498:].mean()]
    assert line(figure, "norm", "joint") == pytest.approx(expected, rel=1e-5)
    assert "3 records" in " ".join(axes.get_xlabel() for axes in figure.axes)


def test_quartiles_leave_out_what_is_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [nan, 8.0, inf, nan, -inf], [nan] * 5])
    lower, median, upper = spread(values)
    np.testing.assert_array_equal([lower, median, upper], [[2, 8, nan], [3, 8, nan], [4, 8, nan]])
    assert [part.tolist() for part in spread(values[:2], bundle=2)] == [[2.25], [3.5], [4.75]]


def test_zeros_and_steps_that_overflowed_leave_gaps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = dict(np.load(folder / "gradients.npz"))
    for name in ("norm_joint_sound", "norm_unimodal_sound", "cosine_sound"):
        content[name][0] = np.nan if "cosine" in name else np.inf
        content[name][1] = 0
    np.savez(folder / "gradients.npz", **content)
    figure = gradients_figure(read_run(folder))
    figure.draw_without_rendering()
    assert np.isnan(line(figure, "norm", "joint")).tolist() == [True, True, False, False, False]
    whole = line(figure, "cosine", "whole")
    assert np.isnan(whole[0]) and whole[1] == 0


def test_weights_beyond_0_and_1_are_not_cut_off(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", weights_touch=np.full((5, 1, 2), 3.5, dtype="f4"))
    figure = gradients_figure(read_run(folder))
    figure.draw_without_rendering()
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "weight α"]  # the first column's: both share it
    low, high = axes.get_ylim()
    assert low < 0 and high > 3.5


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module("figures").main
    folder = write_run(tmp_path / "run", banner="SYNTHETIC DATA")
    assert main(["gradients", "--run", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "gradients.png"), str(folder / "gradients.pdf")]
    pixels = np.asarray(Image.open(folder / "gradients.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    # Joint, unimodal, λ, and the warning.
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)} <= colours
    assert main(["gradients", "--run", str(folder), "--out", str(tmp_path / "new/x.png")]) == 0
    assert (tmp_path / "new/x.png").is_file()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no run", "holds no run"),
        ("no records", "train with --record-gradients"),
        ("torn", "is damaged"),
        ("no step", "holds no step"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(damage: str, message: str, tmp_path: Path) -> None:
    main = importlib.import_module("figures").main
    folder = tmp_path / "run"
    if damage != "no run":
        write_run(folder, steps=0 if damage == "no step" else 2)
    if damage == "no records":
        (folder / "gradients.npz").unlink()
    if damage == "torn":
        (folder / "gradients.npz").write_bytes((folder / "gradients.npz").read_bytes()[:500])
    with pytest.raises(InputError, match=message) as caught:
        main(["gradients", "--run", str(folder)])
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "gradients.png").exists()


def test_only_a_figure_of_a_run_takes_a_run(tmp_path: Path) -> None:
    main = importlib.import_module("figures").main
    with pytest.raises(InputError, match="--run"):
        main(["gradients"])
    with pytest.raises(InputError, match="leave --run out"):
        main(["integration", "--run", str(tmp_path), "--out", str(tmp_path / "x.png")])
    assert not list(tmp_path.iterdir())
