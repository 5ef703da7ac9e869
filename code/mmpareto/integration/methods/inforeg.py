"""InfoReg, regulation of information acquisition (Huang et al., CVPR 2025, arXiv 2503.18595)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import given_labels, read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32, gramians
from mmpareto.integration.methods.fusing import FusingMethod
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect, collect_joint, split_entry
from mmpareto.integration.options import check_at_least, check_choice

EPOCHS = 10  # of the released code's moving sum of traces


class InfoReg(PlainSum, FusingMethod):
    """InfoReg: in the prime learning window, pull encoders of confident modalities back to where the epoch began.

    With p_k the prediction that modality k makes alone, y the labels, and θ_k⁰ the encoder at the start of the epoch:

        s_k = mean of log p_k[y]        Δ_k = mean of s_k − s_j over the modalities j with s_j < s_k
        T_k = mean of ‖g_k‖² over the steps of an epoch        window of k: (T_k − T_k before) / T_k > K
        h_k = g_k + α_k (θ_k − θ_k⁰), with α_k = c·exp(β·tanh Δ_k) where Δ_k > 0 in the window, else 0

    g_k is the joint loss's gradient, c is 1, and the window of an epoch is judged from the two epochs before it, from
    the third epoch on (equations 7 to 16 and algorithm 1). T_k stands in for the trace of the Fisher information
    matrix: equation 7 has gradients of samples, equation 13 and we those of batches. The sign of equation 8 is that of
    a loss, −log p; the text around it takes the larger score for the better modality, and so do we. `unimodal_loss`
    adds the loss of every p_k (InfoReg* in the paper, which does not say whose predictions these are). With one
    modality, nothing is regulated. One backward pass. In the window, the method holds a copy of the encoders.

    `variants["released"]` is GeWu-Lab/InfoReg_CVPR2025 at ea7b9d5, with these differences: it descends the losses of
    p_k as well; it has sums over the batch of p_k[y] as scores, so that tanh saturates and α_k is nearly c·e; c is 0.95
    for the first modality (audio) and 0.1 for the other; the first modality's window is that of all; the trace is the
    sum over its weight matrices and kernels of the mean squared element, regulation included; traces are sums over ten
    epochs, fewer at first, so that the first ten epochs nearly always count as in the window; K is 0.05. The first
    commit, 41d887f, also has K = 0.04, heads of their own for p_k, and a condition by which the second modality is
    never regulated: `threshold` 0.04, `prediction` "head", `strength_of_others` 0. The code has two modalities; with
    more, Δ_k is as above.

    In your own loop, call `set_epoch(…)` when an epoch begins. `backward` needs the labels, and `outputs` with
    `contributions`, modality → logits W_k x_k + b/n; `prediction` "zeroed" needs `features` instead, and one call of
    `use_fusion(…)` before training, "head" the field `unimodal`. A step that is not finite does not count in T_k.

    Arguments:
        beta: β ≥ 0, how strongly α depends on Δ [0.9; released code: 1].
        threshold: K ≥ 0 [0.04; released code: 0.05].
        window: "own": of each modality, by ‖g_k‖² of single epochs; "first": the first modality's, by sums over ten
            epochs of the mean squared elements of each weight.
        score: "likelihood": s_k is the mean of log p_k[y]; "probability": it is the sum of p_k[y].
        strength: c ≥ 0 of the first modality [1; released code: 0.95].
        strength_of_others: c ≥ 0 of every other modality [1; released code: 0.1].
        prediction: p_k is softmax of: "contribution": the part of the joint logits that modality k contributes;
            "zeroed": the joint logits with zeros as the features of all other modalities, for any fusion; "head": the
            unimodal head's logits, for `unimodal_loss`.
        unimodal_loss: whether the losses of p_k are descended, too.
        modulation_starts: the first epoch that may be in the window, from 0 [2; released code: 0].

    Raises:
        ValueError: an option is out of range, or heads would predict that are not trained; `backward`: the epoch was
            never set, the joint loss, the labels or a modality's prediction are missing, or the fusion has no
            contributions.
    """

    source = "Huang et al., InfoReg, CVPR 2025 (arXiv 2503.18595)"
    title = "InfoReg"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "beta": 0.9,
            "threshold": 0.04,
            "window": "own",
            "score": "likelihood",
            "strength": 1.0,
            "strength_of_others": 1.0,
            "unimodal_loss": False,
            "modulation_starts": 2,
        },
        "released": {
            "beta": 1.0,
            "threshold": 0.05,
            "window": "first",
            "score": "probability",
            "strength": 0.95,
            "strength_of_others": 0.1,
            "unimodal_loss": True,
            "modulation_starts": 0,
        },
    }
    absent = "contribution"  # as p_k
    memory = ("epoch", "traces", "sums", "start")
    descends_unimodal = False
    needs_classes = True
    needs_fusion = True

    def __init__(
        self,
        beta: float = 0.9,
        threshold: float = 0.04,
        window: str = "own",
        score: str = "likelihood",
        strength: float = 1.0,
        strength_of_others: float = 1.0,
        prediction: str = "contribution",
        unimodal_loss: bool = False,
        modulation_starts: int = 2,
    ) -> None:
        super().__init__()
        check_at_least("beta", beta, 0)
        check_at_least("threshold", threshold, 0)
        check_choice("window", window, ("own", "first"))
        check_choice("score", score, ("likelihood", "probability"))
        check_at_least("strength", strength, 0)
        check_at_least("strength_of_others", strength_of_others, 0)
        check_choice("prediction", prediction, ("contribution", "zeroed", "head"))
        check_at_least("modulation_starts", modulation_starts, 0)
        if prediction == "head" and not unimodal_loss:
            raise ValueError(
                "prediction 'head' needs unimodal_loss true (--unimodal_loss true), which trains the heads"
            )
        self.beta, self.threshold, self.window, self.score = beta, threshold, window, score
        self.strength, self.strength_of_others = strength, strength_of_others
        self.prediction, self.unimodal_loss, self.modulation_starts = prediction, unimodal_loss, modulation_starts
        self.descends_unimodal = prediction == "head"
        self.epoch: int | None = None
        self.traces: dict[str, list[float]] = {}  # modality → T of every finished epoch
        self.sums: dict[str, Tensor] = {}  # modality → (2,) float64 of the epoch: the sum of ‖g‖², and of the steps
        self.start: dict[str, list[Tensor]] = {}  # modality in the window → its encoder's parameters at the start

    # --- between epochs ---

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, from 0; the traces of the one before it are complete. Waits for the device."""
        for name, sums in self.sums.items():
            total, steps = sums.tolist()
            self.traces = self.traces | {name: [*self.traces.get(name, []), total / max(steps, 1)]}
        self.epoch, self.sums, self.start = epoch, {}, {}

    def begin_training(self, context: TrainingContext) -> None:
        """Take the fusion, or reject one without contributions."""
        if self.prediction == "zeroed":
            super().begin_training(context)
        elif self.prediction == "contribution" and not getattr(context.network, "additive", True):
            raise ValueError(self._not_additive())

    def begin_epoch(self, context: TrainingContext) -> None:
        """Set the epoch."""
        self.set_epoch(context.epoch - 1)  # the context counts from 1

    def end_epoch(self, context: TrainingContext) -> None:
        """End the epoch, so that no checkpoint of a finished epoch holds a copy of the encoders."""
        self.set_epoch(context.epoch)

    def _is_in_window(self, modality: str, first: str) -> bool:
        traces = self.traces.get(modality if self.window == "own" else first, [])
        if self.epoch is None or self.epoch < self.modulation_starts:
            return False
        count = 1 if self.window == "own" else EPOCHS
        now, before = sum(traces[-count:]), sum(traces[-count - 1 : -1])
        return not traces or now - before > self.threshold * now

    # --- a step ---

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss and, with `unimodal_loss`, those of the modalities' own predictions."""
        if self.epoch is None:
            raise ValueError(f"{self.title} acts by epochs: call set_epoch() when an epoch begins")
        objectives = collect_joint(joint, encoders, self.title)
        given_labels(labels, self.title)
        if not self.unimodal_loss:
            return objectives
        losses: UnimodalLosses = unimodal
        if self.prediction != "head":
            losses = {name: self.share * self.loss(z, labels) for name, z in self._predictions(outputs).items()}
        return collect(joint, losses, {name: (split_entry(given, ())[0], [name]) for name, given in encoders.items()})

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → (2,) float64: the sum of log p_k[y] or of p_k[y], and the number of samples."""
        predictions, statistics = self._predictions(outputs), {}
        for name in objectives.encoders:
            if name not in predictions or labels is None:
                raise ValueError(f"{self.title} needs a prediction of {name!r}, but outputs has {[*predictions]} only")
            logits = predictions[name].double()
            scores = logits.log_softmax(1) if self.score == "likelihood" else logits.softmax(1)
            score = scores.gather(1, labels.to(logits.device).unsqueeze(1)).sum()
            statistics[name] = torch.stack([score, torch.full_like(score, len(labels))])
        return statistics

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Add the regulation to the gradients in the window, and the step to the traces; return α as metrics."""
        alpha = self._coefficients(gradients)
        first = next(iter(objectives.encoders), "")
        scale, finite = gradients.scale, gradients.finite.all()
        for name, encoder in objectives.encoders.items():
            if self.window == "own":
                self._add_trace(name, gramians(gradients.encoders[name], scale).sum(), finite)
            if self._is_in_window(name, first):
                start = self._start_of(name, encoder.parameters)
                pulled = _pulled(gradients.encoders[name][0], encoder.parameters, start, alpha[name] * scale)
                gradients.encoders[name] = [pulled]
            else:
                alpha[name] = torch.zeros_like(alpha[name])
            if self.window == "first" and name == first:
                self._add_trace(name, _mean_squares(gradients.encoders[name][0], scale), finite)
        return {f"regulation_{name}": value for name, value in alpha.items()}

    def _coefficients(self, gradients: Gradients) -> dict[str, Tensor]:
        """Return α of every modality as in the window, () float64."""
        if not gradients.statistics:  # all encoders are frozen
            return {}
        sums, counts = torch.stack([*gradients.statistics.values()]).unbind(1)
        if self.score == "likelihood":
            s = sums / counts
        else:  # the sum over the batch, of which each process's reducer may have left a mean over the processes
            reducer = self.active_reducer
            s = sums * (reducer.processes if reducer is not None and reducer.divides else 1)
        gaps = s.unsqueeze(1) - s
        weaker = gaps > 0
        gap = torch.where(weaker, gaps, 0.0).sum(1) / weaker.sum(1).clamp(min=1)
        alpha = torch.where(gap > 0, torch.exp(self.beta * gap.tanh()), 0.0)
        c = [self.strength, *[self.strength_of_others] * (len(s) - 1)]
        return {name: c_k * alpha_k for name, c_k, alpha_k in zip(gradients.statistics, c, alpha, strict=True)}

    def _start_of(self, name: str, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the encoder's parameters at the start of the epoch: at its first step, the present ones."""
        start = self.start.get(name)
        if start is None:
            start = [p.detach().clone() for p in parameters]
        elif any(a.device != p.device for a, p in zip(start, parameters, strict=True)):  # just loaded
            start = [a.to(p.device) for a, p in zip(start, parameters, strict=True)]
        self.start = self.start | {name: start}
        return start

    def _add_trace(self, name: str, trace: Tensor, finite: Tensor) -> None:
        counted = torch.stack([trace, torch.ones_like(trace)])
        sums = self.sums[name].to(trace.device) if name in self.sums else torch.zeros_like(counted)
        self.sums = self.sums | {name: torch.where(finite.to(trace.device), sums + counted, sums)}

    def _predictions(self, outputs: Any) -> dict[str, Tensor]:
        """Return modality → the logits (B, C) of its own prediction, float32 at least."""
        if self.prediction == "zeroed":
            features = self.features_in(outputs)
            return {name: self.fuse_only(features, [name]) for name in features}
        field = "contributions" if self.prediction == "contribution" else "unimodal"
        logits = read_output(outputs, field)
        if logits is not None and not logits and field == "contributions":
            raise ValueError(self._not_additive())
        if not logits:
            raise ValueError(f"{self.title} needs outputs: pass outputs=… with `{field}`, modality → logits (B, C)")
        return {name: at_least_float32(z) for name, z in logits.items()}

    def _not_additive(self) -> str:
        return (
            f"{self.title} compares what each modality contributes to the joint logits, but this fusion computes no "
            "sum over modalities: use one that does (--fusion concat or sum), or set prediction to 'zeroed' "
            "(--prediction zeroed)"
        )


def _pulled(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], start: Sequence[Tensor], alpha: Tensor
) -> list[Tensor | None]:
    """Return g + α(θ − θ⁰) per tensor, at least float32, for α () that carries the gradients' scale."""
    result: list[Tensor | None] = []
    for g, p, p0 in zip(gradients, parameters, start, strict=True):
        if g is None:
            result.append(None)
            continue
        wide = at_least_float32(g)
        moved = p.detach().to(wide) - p0.to(wide)
        result.append(torch.addcmul(wide, moved, alpha.to(wide)))
    return result


def _mean_squares(gradients: Sequence[Tensor | None], scale: Tensor) -> Tensor:
    """Return the sum over tensors that are not 1-D of the mean of g², () float64, without the scale that g carries."""
    weights = [g for g in gradients if g is not None and g.ndim != 1]
    if not weights:
        return scale.new_zeros((), dtype=torch.float64)
    squares = gramians([[*weights]], scale).flatten().unbind()
    return torch.stack(torch._foreach_div(squares, [g.numel() for g in weights])).sum()
