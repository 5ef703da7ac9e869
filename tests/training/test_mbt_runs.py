"""Runs with MBT: sizes from the data, weights from a file, checkpoints that load, and what is refused."""

from pathlib import Path

import mmpareto
import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.training.recipes import recipe
from mmpareto.training.run import make_trainer
from mmpareto.training.settings import parse
from prepared_clips import write_prepared
from tiny_runs import arguments, assert_same, read, resume, run, trainer_of
from torchvision.models import VisionTransformer

MBT = ("--encoder", "mbt-tiny", "--frames", 2, "--audio_pool", 2, 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared", train=8, test=4)


def test_a_run_is_resumed_and_loaded_with_the_sizes_of_its_inputs(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = VisionTransformer(32, 8, 4, 4, 64, 256).state_dict()
    torch.save(weights, tmp_path / "vit.pth")
    words = (*MBT, "--pretrained", tmp_path / "vit.pth", "--learning_rate", 0.001)
    assert run(data, tmp_path / "whole", *words) == 0
    (tmp_path / "run").mkdir()
    assert run(data, tmp_path / "run/a", *words, "--epochs", 1) == 0
    assert resume(tmp_path / "run/a", "--epochs", 2) == 0
    content = read(tmp_path / "run/a/last.pt")
    assert_same(content["model"], read(tmp_path / "whole/last.pt")["model"])
    assert content["network"]["fusion"] == "average_logits"
    assert content["network"]["input_shapes"] == {"audio": [1, 32, 32], "visual": [2, 3, 24, 24]}
    trained = mmpareto.load(tmp_path / "run/a")
    assert trained.model.interaction and trained.unimodal_heads == "trained"
    batch = {"audio": torch.randn(2, 1, 32, 32), "visual": torch.randn(2, 2, 3, 24, 24)}
    assert trained.model(batch).joint.shape == (2, 3)
    assert set(trained.model({"audio": batch["audio"]}).unimodal) == {"audio"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--fusion sum", r"--encoder mbt-tiny uses the fusion 'average_logits' always; leave --fusion out"),
        ("--fusion concat", r"--fusion has no effect in this run: .* always uses the fusion 'average_logits'"),
        ("--method ensemble", r"--encoder mbt-tiny always uses the fusion 'average_logits', not 'average'"),
        ("--method greedy", "mmtm blocks follow an encoder's last three stages, and mbt-tiny, of audio, has none"),
        ("--method unimodal --modality audio", "between modalities, and there is only audio"),
        ("--encoder audio=mbt-tiny visual=tiny", "visual has tiny; give --encoder mbt-tiny alone"),
        ("--image_size 20", r"visual: patches of 8 × 8 do not divide its input of 20 × 20; change --image_size"),
        ("--audio_pool 5 1", r"audio: patches of 8 × 8 do not divide its input of 12 × 128"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, words: str, sentence: str
) -> None:
    request = parse(arguments(data, tmp_path / "run", *MBT[:2], *words.split()))
    with pytest.raises(InputError, match=sentence) as caught:
        make_trainer(request.settings, check_flags=request.check_flags)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_activation_checkpointing_and_micro_batches_give_the_same_step(data: Path, tmp_path: Path) -> None:
    steps = []
    for number, more in enumerate(((), ("--checkpoint_activations",), ("--accumulate", 2))):
        trainer = trainer_of(data, tmp_path / str(number), *MBT, "--method", "uniform", *more)
        trainer.network.double()
        trainer.begin_epoch()
        batch, samples = next(trainer._batches())
        batch = batch._replace(inputs={name: x.double() for name, x in batch.inputs.items()})
        trainer.step(batch, samples)
        steps.append([parameter.detach() for parameter in trainer.network.parameters()])
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(steps[2], steps[0], rtol=1e-9, atol=1e-9)


def test_the_recipe_is_the_papers() -> None:
    for dataset in ("cremad", "kinetics_sounds"):
        values = {name: value for name, (value, _) in recipe(dataset, "mbt").items()}
        assert values["encoder"] == "mbt-base" and values["optimizer"] == "sgd" and values["learning_rate"] == 1e-3
        size, pool = values["image_size"], values["audio_pool"]
        assert not (size % 16 or values["audio_frames"] % (16 * pool[0]) or 128 % (16 * pool[1]))
    assert recipe("synthetic", "mbt")["encoder"].value == "mbt-tiny"
