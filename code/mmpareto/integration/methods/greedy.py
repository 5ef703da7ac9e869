"""Greedy: balance the speeds at which modalities learn to be used (Wu et al., ICML 2022)."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses
from mmpareto.integration.options import check_at_least, check_positive


class Greedy(JointLoss):
    """Greedy: hold the gates of the modality that lags for a few steps, so that it learns by its own encoder alone.

    The encoders exchange information through MMTM blocks. With g and w all gradients and weights of a part of the
    network, each modality k has

        M_k += ‖g‖²/‖w‖² per step, for its encoder (main) and for the parameters its gates depend on (bypass)
        r_k = log10(M_bypass,k / M_main,k)

    A modality with a large r_k is learned mainly through the other modalities. When the largest r_k exceeds the mean of
    the others (for two modalities, the other one) by more than `threshold`, a window of `window` steps begins, in which
    that modality's gates are replaced by their running mean. M does not change during a window, and one step without a
    window follows, as in the released code (nyukat/greedy_multimodal_learning). Steps before `start_epoch` count in M
    and decide nothing, so the first window follows the first step of that epoch. Only the joint loss is descended, in
    one backward pass. The decision is made on the host: one number per modality is read after each step outside a
    window. One modality alone is never held. A step that is not finite does not change M.

    The released network has no joint head: each view has a classifier of its own, the prediction is the mean of their
    logits, and the sum of their losses is descended. Its M_main therefore includes each view's classifier; here, a
    joint head that all modalities share counts for none. Its running mean of the second view's gates is computed from
    the first view's; here, each modality's is its own.

    In your own loop, call `watch` once with the parameters behind the gates, and pass `hold=method.hold()` to the model
    at every forward pass.

    Arguments:
        threshold: ε > 0 [0.01].
        window: Q ≥ 1 steps [5].
        start_epoch: the first epoch with windows, from 1 [2].

    Raises:
        ValueError: an option is out of range; `backward`: there is no joint loss, or `watch` was not called for a
            modality.
    """

    source = "Wu et al., Characterizing and overcoming the greedy nature of learning, ICML 2022 (arXiv 2202.05306)"
    title = "Greedy"
    network = MappingProxyType({"blocks": "mmtm"})
    memory = ("main", "bypass", "held", "left", "undecided", "active")

    def __init__(self, threshold: float = 0.01, window: int = 5, start_epoch: int = 2) -> None:
        super().__init__()
        check_positive("threshold", threshold)
        check_at_least("window", window, 1)
        self.threshold, self.window, self.start_epoch = threshold, window, start_epoch
        self.main: dict[str, Tensor] = {}
        self.bypass: dict[str, Tensor] = {}
        self.held: str | None = None
        self.left = 0  # steps of the current window
        self.undecided = False  # whether M has changed in an active epoch since the last decision
        self.active = True
        self._watched: dict[str, list[Tensor]] = {}

    def watch(self, bypass: Mapping[str, Iterable[Tensor]]) -> None:
        """Set the parameters that each modality's gates depend on, its own and shared ones: modality → parameters."""
        self._watched = {name: list(parameters) for name, parameters in bypass.items()}

    def hold(self) -> str | None:
        """Return the modality whose gates must be held in the next step, or None."""
        if self.undecided and len(self.main) > 1:
            ratios = {name: value.item() for name, value in self._ratios().items()}
            first = max(ratios, key=lambda name: ratios[name])
            others = [value for name, value in ratios.items() if name != first]
            if ratios[first] - sum(others) / len(others) > self.threshold:
                self.held, self.left = first, self.window
        self.undecided = False
        return self.held

    def begin_training(self, context: TrainingContext) -> None:
        """Watch the parameters of the network's blocks."""
        self.watch(context.network.bypass())

    def begin_epoch(self, context: TrainingContext) -> None:
        """Allow windows from `start_epoch` on."""
        self.active = context.epoch >= self.start_epoch

    def before_forward(self, context: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Return the modality to hold as an argument of the model's forward pass."""
        return {"hold": self.hold()}

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, after checking that every modality is watched."""
        missing = [name for name in encoders if name not in self._watched]
        if missing:
            raise ValueError(f"Greedy needs the parameters behind the gates of {missing[0]!r}: call watch() with them")
        return super().objectives(joint, unimodal, encoders, outputs, labels)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Add the step to M if no window is open, else count it; return r_k as metrics."""
        if self.held is None:
            gradient_of: dict[Tensor, Tensor | None] = {**gradients.others}
            for name, encoder in objectives.encoders.items():
                gradient_of |= zip(encoder.parameters, gradients.encoders[name][0], strict=True)
            gates = {p for parameters in self._watched.values() for p in parameters}  # possibly inside the encoders
            finite, scale = gradients.finite.all(), gradients.scale
            for name, encoder in objectives.encoders.items():
                main = {p: gradient_of.get(p) for p in encoder.parameters if p not in gates}
                bypass = {p: gradient_of.get(p) for p in self._watched[name]}
                self.main = self.main | {name: _accumulated(self.main.get(name), main, scale, finite)}
                self.bypass = self.bypass | {name: _accumulated(self.bypass.get(name), bypass, scale, finite)}
            self.undecided = self.active
        else:
            self.left -= 1
            self.held = self.held if self.left else None
        return {f"log_ratio_{name}": ratio for name, ratio in self._ratios().items()}

    def _ratios(self) -> dict[str, Tensor]:
        return {name: torch.log10(self.bypass[name] / self.main[name]) for name in self.main}


def _accumulated(
    total: Tensor | None, gradients: Mapping[Tensor, Tensor | None], scale: Tensor, finite: Tensor
) -> Tensor:
    """Return M plus this step's ‖g‖²/‖w‖², () float64; M alone if that number or the step is not finite."""
    zero = torch.zeros((), dtype=torch.float64, device=scale.device)
    total = zero if total is None else total.to(zero)
    g = sum((x.double().square().sum() for x in gradients.values() if x is not None), zero) / scale.double().square()
    w = sum((x.detach().double().square().sum() for x in gradients), zero)
    step = g / w
    return torch.where(step.isfinite() & finite.to(step.device), total + step, total)
