"""--blocks and --cross_terms: which methods take them, what each loss trains then, and the record of both updates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import figures
import mmpareto
import mmpareto.training.loop as loop
import numpy as np
import pytest
import torch
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.training.cross_terms import CrossTermComparison
from mmpareto.training.loop import Trainer
from prepared_clips import write_prepared
from tiny_runs import acting, assert_same_run, needed, read, resume, run, send_signal, trainer_of
from torch import Tensor

BLOCKS = ("--blocks", "mmtm", "--encoder", "tiny", "--protocol", "paper")
REFUSED = {
    "ensemble": "trains every modality as if it were alone",
    "pretrain_finetune": "trains every encoder alone at first",
    "cggm": "trains the classifiers alone on the features",
    "mla": "trains one encoder per step",
    "reconboost": "trains one encoder while the others are frozen",
}
NAMES = ("audio", "visual")
# The unimodal losses that methods descend; `dgl` multiplies them by α. The joint loss of `dgl` reaches no encoder.
ALPHA = 4.0
OPTIONS = {
    "gblending": ("--trial_epochs", "1"),
    "dgl": ("--alpha", str(ALPHA)),
    "relearning": ("--protocol", "validation"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=9, test=4, prepared={})


def ready(data: Path, folder: Path, method: str, *more: str) -> tuple[Trainer, Batch]:
    """A trainer in float64 before the first step of an epoch, and a batch."""
    trainer = trainer_of(data, folder, "--method", method, *BLOCKS, *OPTIONS.get(method, ()), *more)
    trainer.network.double()
    trainer.begin_epoch()
    batch = to_device(next(iter(trainer.loader)), trainer.device, trainer.data.train.normalisation)
    return trainer, batch._replace(inputs={name: values.double() for name, values in batch.inputs.items()})


@pytest.mark.parametrize("name", [*METHODS, "mmpareto --variant paper --refresh 2"])
def test_every_method_takes_blocks_or_refuses_them_in_a_sentence(name: str, data: Path, tmp_path: Path) -> None:
    method, *more = name.split()
    reason = REFUSED.get(name, "mixes gradients at the encoders' outputs" if more else None)
    if reason is not None:
        with pytest.raises(InputError, match=f"^method '{method}' {reason}.*exchange information") as error:
            ready(data, tmp_path / "run", method, *more)
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
        return
    more = ["--modality", "visual"] if method == "unimodal" else [*more, *needed(method, data)]
    trainer, batch = ready(data, tmp_path / "run", method, *more)
    assert len(trainer.network.blocks) == (0 if method == "unimodal" else 3)
    before = {key: p.detach().clone() for key, p in trainer.network.named_parameters()}
    trainer.step(batch)
    moved = {key.split(".")[0] for key, p in trainer.network.named_parameters() if not torch.equal(p, before[key])}
    assert {"encoders", "fusion"} <= moved and ("blocks" in moved) is (method != "unimodal")


def of_losses(trainer: Trainer, batch: Batch) -> dict[str, dict[str, Tensor | None]]:
    """Loss → parameter's name → its gradient, by one autograd call per loss on the trainer's own losses."""
    seen: dict[str, Tensor] = {}

    def keep(joint: Tensor, unimodal: dict[str, Tensor], **more: Any) -> None:
        seen.update({"joint": joint, **unimodal})
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.method, "backward", keep)
        trainer.step(batch)
    names, parameters = zip(*trainer.network.named_parameters(), strict=True)
    return {
        loss: dict(
            zip(names, torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True), strict=True)
        )
        for loss, value in seen.items()
    }


def step_gradients(trainer: Trainer, batch: Batch) -> dict[str, Tensor | None]:
    """The gradients that the optimizer is given."""
    given: dict[str, Tensor | None] = {}

    def keep(*_: Any) -> None:
        given.update({key: p.grad for key, p in trainer.network.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.precision, "step", keep)
        trainer.step(batch)
    return given


def total(terms: list[Tensor | None]) -> Tensor | None:
    reached = [term for term in terms if term is not None]
    return torch.stack(reached).sum(0) if reached else None


Expected = Callable[[str, dict[str, Tensor | None]], Tensor | None]


def owner(key: str) -> str | None:
    """The modality whose encoder has the parameter."""
    return key.split(".")[1] if key.startswith("encoders.") else None


def pareto_of(losses: dict[str, dict[str, Tensor | None]], unimodal: dict[str, list[str]]) -> dict[str, Tensor | None]:
    """MGDA per encoder in plain PyTorch (closed form), where encoder k learns from L_m and the sum of `unimodal[k]`."""
    result: dict[str, Tensor | None] = {}
    for modality, names in unimodal.items():
        keys = [key for key in losses["joint"] if owner(key) == modality]
        pairs = {key: (losses["joint"][key], total([losses[name][key] for name in names])) for key in keys}
        flat = [torch.cat([pair[column].flatten() for pair in pairs.values()]) for column in (0, 1)]  # type: ignore[union-attr]
        a, b, c = flat[0] @ flat[0], flat[1] @ flat[1], flat[0] @ flat[1]
        alpha = 1.0 if c >= a else 0.0 if c >= b else float((b - c) / (a + b - 2 * c))
        result |= {key: 2 * alpha * g + 2 * (1 - alpha) * u for key, (g, u) in pairs.items()}  # type: ignore[operator]
    for key in losses["joint"]:
        if owner(key) is None:
            result[key] = total([gradients[key] for gradients in losses.values()])
    return result


@pytest.mark.parametrize(("included", "learns_from"), [("excluded", lambda k: [k]), ("included", lambda k: [*NAMES])])
def test_encoders_learn_from_their_objectives_and_blocks_from_all_losses(
    included: str, learns_from: Callable[[str], list[str]], data: Path, tmp_path: Path
) -> None:
    trainer, batch = ready(
        data, tmp_path / "run", "pareto", *(("--cross_terms", included) if included != "excluded" else ())
    )
    losses = of_losses(trainer, batch)
    cross = losses["audio"]["encoders.visual.layers.3.weight"]
    assert cross is not None and cross.norm() > 0  # so that leaving it out is noticed
    expected = pareto_of(losses, {name: learns_from(name) for name in NAMES})
    assert_gradients(step_gradients(trainer, batch), expected)


def assert_gradients(given: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert given.keys() == expected.keys()
    for key, gradient in expected.items():
        if gradient is None:
            assert given[key] is None, key
        else:
            torch.testing.assert_close(
                given[key], gradient, rtol=1e-9, atol=1e-12, msg=lambda text, k=key: f"{k} {text}"
            )


def test_dgl_trains_blocks_by_the_joint_loss_and_encoders_by_their_own(data: Path, tmp_path: Path) -> None:
    trainer, batch = ready(data, tmp_path / "run", "dgl")
    losses = of_losses(trainer, batch)
    expected = {}
    for key, joint in losses["joint"].items():
        own = losses[owner(key) or "joint"][key]
        expected[key] = joint if owner(key) is None else None if own is None else ALPHA * own
    assert_gradients(step_gradients(trainer, batch), expected)
    assert any(key.startswith("blocks") and gradient is not None for key, gradient in expected.items())


def test_a_run_with_blocks_resumes_loads_and_does_without_a_modality(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--method", "mmpareto", *BLOCKS, "--record_gradients", "1")
    assert run(data, tmp_path / "whole", *more) == 0
    assert "blocks mmtm" in capsys.readouterr().out
    with acting(loop.Trainer, "step", 4, send_signal):  # 3 steps per epoch
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert read(tmp_path / "run" / "last.pt")["network"]["blocks"] == "mmtm"
    with np.load(tmp_path / "run" / "gradients.npz") as file:
        assert file["cross_cosine_audio"].shape == (6,) and (file["cross_difference_visual"] > 0).all()
    trained = mmpareto.load(tmp_path / "run")
    assert len(trained.model.blocks) == 3 and trained.settings["blocks"] == "mmtm"
    gates = {name: trained.model.blocks[0].get_buffer(f"mean_{name}") for name in NAMES}
    assert all(0 < gate.mean() < 1 for gate in gates.values())
    assert evaluate.main([str(tmp_path / "run" / "last.pt"), "--without", "audio", "--gpu_ids", "cpu"]) == 0
    assert figures.main(["cross_terms", "--run", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "cross_terms.json").read_text())["encoders"]
    with np.load(tmp_path / "run" / "gradients.npz") as file:
        for name in NAMES:
            assert result[name]["steps"] == 6
            assert result[name]["cosine_mean"] == pytest.approx(file[f"cross_cosine_{name}"].mean())
            assert result[name]["difference_max"] == pytest.approx(file[f"cross_difference_{name}"].max())


def test_a_run_without_cross_terms_has_nothing_to_compare(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", "--epochs", "1", "--record_gradients", "1") == 0
    with pytest.raises(InputError, match="compared no updates: that takes encoders that interact"):
        figures.main(["cross_terms", "--run", str(tmp_path / "run")])


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_the_recorded_comparison_is_that_of_two_steps(accumulate: str, data: Path, tmp_path: Path) -> None:
    """Both updates from two trainers of the same weights, whose optimizers are not called."""
    more = ("--record_gradients", "1", "--accumulate", accumulate)
    given = {}
    for terms in ("excluded", "included"):
        flags = () if terms == "excluded" else ("--cross_terms", terms)
        trainer, batch = ready(data, tmp_path / terms, "mmpareto", *more, *flags)
        if terms == "excluded":
            weights = trainer.network.state_dict()
        trainer.network.load_state_dict(weights)
        given[terms] = step_gradients(trainer, batch)
        metrics = trainer.recorder._on_device[-1].values
        for name in NAMES:
            assert metrics[f"cross_cosine_{name}"].dtype == torch.float32
    for name in NAMES:
        keys = [key for key in given["excluded"] if owner(key) == name]
        exact, other = (torch.cat([given[terms][key].flatten() for key in keys]) for terms in given)  # type: ignore[union-attr]
        assert metrics[f"cross_cosine_{name}"].item() == pytest.approx(
            torch.cosine_similarity(exact, other, 0).item(), rel=1e-5
        )
        difference = (exact - other).norm() / exact.norm()
        assert 0 < difference.item() == pytest.approx(metrics[f"cross_difference_{name}"].item(), rel=1e-5)


def test_an_update_of_zeros_has_no_relative_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = iter([{"a": [torch.zeros(3)]}, {"a": [torch.ones(3)]}])
    comparison = CrossTermComparison(METHODS["uniform"]())
    monkeypatch.setattr(comparison, "_integrate", lambda step: next(updates))
    assert all(value.isnan() for value in comparison.finish().values())
