"""Greedy: balance the speeds at which modalities learn to be used (Wu et al., ICML 2022)."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, collect_joint


class Greedy(PlainSum):
    """Hold the gates of the modality that lags, so that for some steps only its own encoder learns.

    The encoders exchange information through MMTM blocks. With g and w all of a modality's gradients and weights,

        M_k += ‖g‖²/‖w‖² of its encoder (main), and of what its gates depend on (bypass)
        r_k = log10(M_bypass,k / M_main,k)

    so that a modality of large r_k is learnt by way of the others. Where the largest r_k is more than `threshold` above
    the mean of the others' (for two modalities: their difference), a window of `window` steps begins in which that
    modality's gates are replaced by their running mean; M stands still meanwhile, and one step without a window
    follows, as in the released code (nyukat/greedy_multimodal_learning). Only the joint loss is descended, in one
    backward pass. The choice is made on the host: one number a modality is read after each step outside a window.

    In a loop of your own, `watch` the blocks' parameters once, and give the model `hold=method.hold()` at every forward
    pass. One modality alone is never held.

    Arguments:
        threshold: ε > 0 [0.01].
        window: Q ≥ 1 steps [5].
        start_epoch: the first epoch with windows [2].

    Raises:
        ValueError: an option is out of range; `backward`: there is no joint loss, or nothing is watched.
    """

    source = "Wu et al., Characterizing and overcoming the greedy nature of learning, ICML 2022 (arXiv 2202.05306)"
    network = MappingProxyType({"blocks": "mmtm"})
    memory = ("main", "bypass", "held", "left", "undecided", "active")
    descends_unimodal = False

    def __init__(self, threshold: float = 0.01, window: int = 5, start_epoch: int = 2) -> None:
        super().__init__()
        if not (math.isfinite(threshold) and threshold > 0):
            raise ValueError(f"threshold must be a positive number, not {threshold}")
        if window < 1:
            raise ValueError(f"window must be at least 1 step, not {window}")
        self.threshold, self.window, self.start_epoch = threshold, window, start_epoch
        self.main: dict[str, Tensor] = {}
        self.bypass: dict[str, Tensor] = {}
        self.held: str | None = None
        self.left = 0
        self.undecided = False
        self.active = True
        self._watched: dict[str, list[Tensor]] = {}

    def watch(self, bypass: Mapping[str, Iterable[Tensor]]) -> None:
        """Say which parameters each modality's gates depend on: modality → those, its own and shared ones."""
        self._watched = {name: list(parameters) for name, parameters in bypass.items()}

    def hold(self) -> str | None:
        """The modality whose gates the next step is to hold; None for none."""
        if self.undecided and self.active and len(self.main) > 1:
            ratios = {name: value.item() for name, value in self._ratios().items()}
            first = max(ratios, key=lambda name: ratios[name])
            others = [value for name, value in ratios.items() if name != first]
            if ratios[first] - sum(others) / len(others) > self.threshold:
                self.held, self.left = first, self.window
        self.undecided = False
        return self.held

    def begin_training(self, loop: TrainingContext) -> None:
        """Watch the network's blocks."""
        self.watch(loop.network.bypass())

    def begin_epoch(self, loop: TrainingContext) -> None:
        """No windows before `start_epoch`."""
        self.active = loop.epoch >= self.start_epoch

    def before_forward(self, loop: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Tell the model whose gates to hold."""
        return {"hold": self.hold()}

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """The joint loss."""
        missing = [name for name in encoders if name not in self._watched]
        if missing:
            raise ValueError(
                f"Greedy does not know the parameters behind the gates of {missing[0]!r}: call watch() with them"
            )
        return collect_joint(joint, encoders, "Greedy")

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Outside a window, add this step to M; inside, count it."""
        if self.held is None:
            found: dict[Tensor, Tensor | None] = {**gradients.others}
            for name, encoder in objectives.encoders.items():
                found |= zip(encoder.parameters, gradients.encoders[name][0], strict=True)
            gates = {p for parameters in self._watched.values() for p in parameters}  # may lie inside the encoders
            sound, scale = gradients.finite.all(), gradients.scale
            for name, encoder in objectives.encoders.items():
                main = {p: found.get(p) for p in encoder.parameters if p not in gates}
                bypass = {p: found.get(p) for p in self._watched[name]}
                self.main = self.main | {name: _added(self.main.get(name), main, scale, sound)}
                self.bypass = self.bypass | {name: _added(self.bypass.get(name), bypass, scale, sound)}
            self.undecided = True
        else:
            self.left -= 1
            self.held = self.held if self.left else None
        return {f"log_ratio_{name}": ratio for name, ratio in self._ratios().items()}

    def _ratios(self) -> dict[str, Tensor]:
        return {name: torch.log10(self.bypass[name] / self.main[name]) for name in self.main}


def _added(total: Tensor | None, gradients: Mapping[Tensor, Tensor | None], scale: Tensor, sound: Tensor) -> Tensor:
    """M with this step's ‖g‖²/‖w‖² added, () float64; as it was where that, or the step (`sound`), is not finite."""
    zero = torch.zeros((), dtype=torch.float64, device=scale.device)
    total = zero if total is None else total.to(zero)
    g = sum((x.double().square().sum() for x in gradients.values() if x is not None), zero) / scale.double().square()
    w = sum((x.detach().double().square().sum() for x in gradients), zero)
    step = g / w
    return torch.where(step.isfinite() & sound.to(step.device), total + step, total)
