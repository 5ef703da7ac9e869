"""The two released repositories that can be replayed, and the interface that is assumed of each."""

import abc
import argparse
import ast
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from mmpareto.analysis.replay.checkout import Overlay, command_line, imported, without_gpus
from mmpareto.errors import InputError
from mmpareto.models.pretrained import RELEASED_NAMES
from mmpareto.training.settings import Settings

LOOP = ("model", "dataloader", "optimizer", "scheduler")
"""Arguments that `train_epoch` must have."""

Decisions = dict[str, bool]


class EpochLoader(Protocol):
    """The data loader that a released loop is given, which also learns when an epoch begins and ends."""

    error: Exception | None
    """Raised by this project's own step, and passed on through their loop."""

    def __len__(self) -> int:
        """Number of batches."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of one epoch: audio, images, labels."""

    def begin_epoch(self, model: nn.Module, optimizer: Any) -> None:
        """Called before their `train_epoch`, with its model, inside DataParallel's stand-in, and its optimiser."""

    def end_epoch(self) -> None:
        """Called after their `train_epoch`."""


class ReleasedRepository(abc.ABC):
    """A checkout of a released repository, whose training script is run as it is.

    The script is imported, not started. It must define, or import under these names: `get_arguments()`, which reads
    `sys.argv`; `main()`, which calls `train_epoch(…)` (arguments `LOOP` among others) and `valid(…)` (three
    accuracies) once per epoch, and makes its loaders by `DataLoader(dataset, …)`; `torch`, `nn`; and `required`.
    Replaced are `DataLoader`, the data set's class, `valid`, and of `torch` the device, the number of GPUs and
    DataParallel. All else is theirs: arguments, network, initial weights, optimiser, schedule, and training loop.

    Arguments:
        folder: of the checkout.
        fusion: the released code's name of a fusion.

    Raises:
        InputError: the repository has no such fusion.
    """

    title: ClassVar[str]
    """Owner and name on GitHub."""
    script: ClassVar[tuple[str, ...]]
    """Paths of the training script, relative to the checkout."""
    dataset: ClassVar[str]
    """Name of CREMA-D's class in the script."""
    required: ClassVar[tuple[str, ...]] = ()
    """Further names that the script must have."""
    options: ClassVar[tuple[str, ...]] = ("batch_size", "epochs", "random_seed")
    """Options that its argument parser must have."""
    arguments: str
    """Arguments of their script."""
    our_arguments: str
    """Arguments of train.py that stand for the same run."""
    fusions: ClassVar[Mapping[str, str]]
    """Their name of a fusion → ours."""
    untrained: tuple[str, ...] = ()
    """Their modules that no loss reaches, and that ours has not: they must keep their initial values."""
    note: str = ""
    """Known difference that the replay removes."""

    def __init__(self, folder: Path, fusion: str = "concat") -> None:
        if fusion not in self.fusions:
            raise InputError(f"{self.title} has no fusion {fusion!r} in this script; use {', '.join(self.fusions)}.")
        self.path = self.find(folder)
        self.fusion = fusion

    @classmethod
    def find(cls, folder: Path) -> Path:
        """Path of the training script in a checkout; it may not exist."""
        candidates = [folder / name for name in cls.script]
        return next((path for path in candidates if path.is_file()), candidates[0])

    @property
    @abc.abstractmethod
    def names(self) -> Mapping[str, str]:
        """Their module → ours with the same parameters."""

    @abc.abstractmethod
    def layout(self, audio: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, 1, time, frequency) and images (B, T, 3, H, W) as their loop expects them of a data loader."""

    @abc.abstractmethod
    def observe(self, module: ModuleType) -> None:
        """Make the script's decisions observable, by wrapping what it calls where it decides."""

    @abc.abstractmethod
    def decisions(self, model: nn.Module) -> Decisions:
        """The decisions since the last call."""

    def hyper_parameters(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Settings of ours, and options of its method, as their arguments give them."""
        return {"batch_size": arguments.batch_size, "epochs": arguments.epochs}

    def shortened(self, arguments: argparse.Namespace, settings: Settings, epochs: int) -> tuple[list[str], Settings]:
        """Further arguments of their script, and our settings, for a run of a few epochs."""
        return ["--epochs", str(epochs)], dataclasses.replace(settings, epochs=epochs)

    def frozen(self, network: Any) -> list[nn.Module]:
        """Modules of ours that the released code leaves untrained; see `note`."""
        return []

    def run(self, loader: EpochLoader, more: list[str]) -> argparse.Namespace:
        """Run their `main()` with this loader in place of theirs; return the arguments that it ran with.

        Raises:
            InputError: the checkout has another interface, or its code raises an exception.
        """
        with imported(self.path) as module, command_line(self.path, [*self.arguments.split(), *more]):
            self._check(module)
            arguments = self._arguments(module)
            self._replace(module, loader)
            try:
                module.main()
            except InputError:
                raise
            except Exception as error:
                if error is loader.error:
                    raise
                raise self._differs(f"its main() raised {type(error).__name__}: {error}") from error
        return arguments

    def _replace(self, module: Any, loader: EpochLoader) -> None:
        self.observe(module)
        theirs: Callable[..., Any] = module.train_epoch
        signature = inspect.signature(theirs)

        def train_epoch(*given: Any, **named: Any) -> Any:
            arguments = signature.bind(*given, **named).arguments
            loader.begin_epoch(arguments["model"], arguments["optimizer"])
            result = theirs(*given, **named)
            loader.end_epoch()
            return result

        module.train_epoch = train_epoch
        module.valid = lambda *_, **__: (-1.0, -1.0, -1.0)  # never the best: no checkpoint is written
        module.DataLoader = lambda *_, **__: loader
        setattr(module, self.dataset, lambda *_, **__: None)
        module.torch = without_gpus()

    def _check(self, module: Any) -> None:
        needed = ("get_arguments", "main", "train_epoch", "valid", "DataLoader", "torch", "nn", self.dataset)
        missing = [name for name in (*needed, *self.required) if not hasattr(module, name)]
        if missing:
            raise self._differs(f"it has no {', '.join(missing)}")
        lacking = [name for name in LOOP if name not in inspect.signature(module.train_epoch).parameters]
        if lacking:
            raise self._differs(f"its train_epoch has no argument {', '.join(lacking)}")

    def _arguments(self, module: Any) -> argparse.Namespace:
        try:
            arguments = module.get_arguments()
        except SystemExit:
            raise self._differs(f"it does not take the arguments {' '.join(sys.argv[1:])}") from None
        lacking = [name for name in self.options if not hasattr(arguments, name)]
        if lacking:
            raise self._differs(f"its argument parser has no {', '.join(lacking)}")
        return arguments

    def _differs(self, how: str) -> InputError:
        return InputError(
            f"{self.path} is not the script that replay.py knows: {how}; give an unchanged checkout of {self.title}."
        )


class MMParetoRepository(ReleasedRepository):
    """GeWu-Lab/MMPareto_ICML2024: `code/MMPareto.py`, against `--method mmpareto --variant released`.

    Its model is `models.models.AVClassifier`: encoders `audio_net` and `visual_net`, linear heads `head` (joint),
    `head_audio`, `head_video`. Its loop calls `MinNormSolver.find_min_norm_element(gradients)` for an encoder where it
    sees a conflict, `gradients` being one list of tensors per loss, in the order of the encoder's parameters.
    """

    title = "GeWu-Lab/MMPareto_ICML2024"
    script = ("code/MMPareto.py", "MMPareto.py")
    dataset = "AVDataset_CD"
    required = ("MinNormSolver",)
    arguments = "--dataset CREMAD --train"
    our_arguments = "--dataset cremad --method mmpareto --variant released --recipe released"
    fusions: ClassVar[Mapping[str, str]] = {"concat": "concat"}
    names = RELEASED_NAMES

    def layout(self, audio: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, time, frequency) and (B, T, 3, H, W)."""
        return audio, images

    def observe(self, module: Any) -> None:
        """Record the shapes of the gradients that the min-norm solver is given."""
        self._solved: list[list[Any]] = []
        solver = module.MinNormSolver

        def find_min_norm_element(gradients: Any) -> Any:
            self._solved.append([tensor.shape for tensor in gradients[0]])
            return solver.find_min_norm_element(gradients)

        module.MinNormSolver = Overlay(solver, find_min_norm_element=find_min_norm_element)

    def decisions(self, model: Any) -> Decisions:
        """Conflict of each encoder's gradients: true if the solver was called for it."""
        solved, self._solved[:] = [*self._solved], []
        encoders = {"audio": model.module.audio_net, "visual": model.module.visual_net}
        shapes = {name: [p.shape for p in encoder.parameters()] for name, encoder in encoders.items()}
        return {
            f"conflict of {name}": any(given[: len(own)] == own for given in solved) for name, own in shapes.items()
        }


class DGLRepository(ReleasedRepository):
    """shicaiwei123/ICCV2025-GDL: `main_dgl.py`, against `--method dgl --recipe dgl`.

    Its model is `models.basic_model.AVClassifier_DGL`: encoders `audio_net` and `visual_net`, and `fusion_module` with
    `fc_out` (concat, film, gated), `fc_x` and `fc_y` (sum, gated) or `fc` (film), and `fc_auxi` (concat), which it
    never uses. Its loop calls `nn.utils.clip_grad_norm_(parameters, max_norm=…)`, and its scheduler is stepped at the
    beginning of `train_epoch`.
    """

    title = "shicaiwei123/ICCV2025-GDL"
    script = ("main_dgl.py",)
    dataset = "CramedDataset"
    options = (*ReleasedRepository.options, "alpha", "lr_decay_step")
    # As in its cramed_dgl.sh; α is the parser's default.
    arguments = "--dataset CREMAD --train --ckpt_path results --learning_rate 0.002"
    our_arguments = "--dataset cremad --method dgl --recipe dgl"
    fusions: ClassVar[Mapping[str, str]] = {"concat": "concat", "sum": "sum", "film": "bilinear", "gated": "gated"}

    def __init__(self, folder: Path, fusion: str = "concat") -> None:
        super().__init__(folder, fusion)
        self.arguments += f" --fusion_method {fusion}"
        self.our_arguments += f" --fusion {self.fusions[fusion]}"
        if fusion == "concat":
            self.untrained = ("fusion_module.fc_auxi",)
        if fusion == "gated":
            self.note = (
                "the released gated fusion cuts the joint loss after fc_x and fc_y, which keep their initial values; "
                "ours trains them, and they are frozen here so that the rest can be compared"
            )

    @property
    def names(self) -> Mapping[str, str]:
        """Their module → ours."""
        fusion = {
            "fusion_module.fc_out": "fusion.fc_out",
            "fusion_module.fc_x": "fusion.fc.audio",
            "fusion_module.fc_y": "fusion.fc.visual",
            "fusion_module.fc": "fusion.fc",
        }
        return {"audio_net": "encoders.audio", "visual_net": "encoders.visual", **fusion}

    def layout(self, audio: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, time, frequency) and (B, 3, T, H, W)."""
        return audio.squeeze(1), images.transpose(1, 2).contiguous()

    def observe(self, module: Any) -> None:
        """Record whether the gradients' norm was above the threshold where it is clipped."""
        self._clipped: list[bool] = []
        clip = module.nn.utils.clip_grad_norm_

        def clip_grad_norm_(parameters: Any, max_norm: float, *options: Any, **more: Any) -> Tensor:
            norm = clip(parameters, max_norm, *options, **more)
            self._clipped.append(bool(norm > max_norm))
            return norm

        module.nn = Overlay(module.nn, utils=Overlay(module.nn.utils, clip_grad_norm_=clip_grad_norm_))

    def decisions(self, model: nn.Module) -> Decisions:
        """Clipping: true if the gradients' norm was above the threshold."""
        clipped, self._clipped[:] = [*self._clipped], []
        return {"clipping": any(clipped)}

    def hyper_parameters(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Batch size, epochs and α."""
        return super().hyper_parameters(arguments) | {"alpha": arguments.alpha}

    def shortened(self, arguments: argparse.Namespace, settings: Settings, epochs: int) -> tuple[list[str], Settings]:
        """As in the base class, with the decay of the learning rate as many epochs earlier in both, in their third."""
        words, settings = super().shortened(arguments, settings, epochs)
        milestone = 3
        try:
            earlier = ast.literal_eval(arguments.lr_decay_step)[0] - milestone
        except (ValueError, SyntaxError, TypeError):
            raise self._differs(f"its --lr_decay_step {arguments.lr_decay_step} is no list of epochs") from None
        step = max(1, settings.lr_decay_step - earlier)
        return [*words, "--lr_decay_step", f"[{milestone}]"], dataclasses.replace(settings, lr_decay_step=step)

    def frozen(self, network: Any) -> list[nn.Module]:
        """fc_k of the gated fusion."""
        return [network.fusion.fc] if self.fusion == "gated" else []


REPOSITORIES: tuple[type[ReleasedRepository], ...] = (MMParetoRepository, DGLRepository)


def recognise(folder: Path, fusion: str) -> ReleasedRepository:
    """Return the repository that a checkout is of.

    Raises:
        InputError: the folder holds neither repository's training script, or the repository has no such fusion.
    """
    for kind in REPOSITORIES:
        if kind.find(folder).is_file():
            return kind(folder, fusion)
    known = " or ".join(f"{kind.title} ({kind.script[0]})" for kind in REPOSITORIES)
    raise InputError(f"{folder} is no checkout of {known}: it has neither script; give the folder of a clone.")
