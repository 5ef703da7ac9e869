"""CGGM, classifier-guided gradient modulation (Guo et al., NeurIPS 2024, arXiv 2411.01409)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.integration.differentiation import Gradients, Pass
from mmpareto.integration.features import read_output
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.modulation import Modulation
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses, collect
from mmpareto.integration.options import check_at_least, check_positive

# Changes of accuracy are differences of shares of a batch: a sum of them that is smaller has been rounded, and is 0.
ROUNDING = 1e-12
DIRECTION = "gradient directions"  # the name of λ·L_gm


class CGGM(Modulation):
    """CGGM, classifier-guided gradient modulation: slow down the encoder whose classifier improves the most.

    Every modality has a classifier on its feature x_k, here its unimodal head. It learns from L_uᵏ, which leaves no
    gradient on the encoder. Let ε_k be its accuracy on the batch, Δε_k the change of ε_k since the previous step (since
    0 at the first one), V_k (C, F) its weights, and W_k (C, F) the weights of x_k in the joint head:

        B_k = (Σⱼ Δε_j − Δε_k) / Σⱼ Δε_j        κ_k = ρ·B_k
        L_gm = 1/n Σₖ (|B_k| − B_k·cos(∂L_uᵏ/∂V_k, ∂L_m/∂W_k))

    L_m + λ·L_gm is descended, and κ_k multiplies its gradient of encoder k. In L_gm, B_k and the classifier's gradient
    are constants; it is differentiated through ∂L_m/∂W_k = (∂L_m/∂z)ᵀ x_k, for joint logits z, which is exact and takes
    no further pass through the encoders. B_k is 1 where ΣΔε is 0. It may be negative, and for a batch of N samples it
    may be of the order of N, which is why the released code clips all gradients to the norm 0.8 (`--clip_grad 0.8`).
    With one modality, this is joint training, and the head's. One backward pass.

    A regression counts as correct where the sign is; several labels per sample count one by one.

    The paper's equations are those of its code (zrguo/CGGM at d7890a8); its text is unchecked. Here as well as in the
    paper, L_gm compares gradients (its readers say so in issue 6 there). The paper's fusion has a last layer of the
    same shape as the classifiers', which is compared as a whole; here, x_k has weights of its own in it. For a fusion
    that is not linear in x_k, W_k are the weights of a linear layer of x_k that is added to z. The paper's classifiers
    are transformers, with half the learning rate of the model; here, the optimizer is the same for all.

    `variants["released"]` adds 1e-8 to ΣΔε, so that B_k is of the order of 10⁶ where ΣΔε is 0, and has no L_gm: the
    released one, which is left out, compares the weights of the last layers, those of the step before, and thereby
    reaches the last layer of the fusion alone. On BraTS, the released code modulates no encoder.

    `backward` needs the labels, and `outputs` with `unimodal`, modality → logits (B, C); for L_gm also with `joint`,
    logits (B, C), and `features`, modality → x_k. L_gm needs the whole batch: unless λ is 0, gradient accumulation and
    several processes are refused.

    Arguments:
        rho: ρ > 0 [1.3].
        direction_weight: λ ≥ 0, the weight of L_gm [0.2 on CMU-MOSI and IEMOCAP, 0.05 on Food-101].
        epsilon: number ≥ 0 that is added to ΣΔε [1e-8].

    Raises:
        ValueError: an option is out of range; `backward`: the joint loss, a unimodal loss, the labels or an output is
            missing, or the batch is not whole.
    """

    source = "Guo et al., CGGM, NeurIPS 2024 (arXiv 2411.01409)"
    title = "CGGM"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"direction_weight": 0.2, "epsilon": 0.0},
        "released": {"direction_weight": 0.0, "epsilon": 1e-8},
    }
    memory = ("scores",)
    descends_unimodal = True
    needs_labels = True
    no_interaction = "trains the classifiers alone on the features"

    def __init__(self, rho: float = 1.3, direction_weight: float = 0.2, epsilon: float = 0.0) -> None:
        super().__init__()
        check_positive("rho", rho)
        check_at_least("direction_weight", direction_weight, 0)
        check_at_least("epsilon", epsilon, 0)
        self.rho, self.direction_weight, self.epsilon = rho, direction_weight, epsilon
        self.scores: dict[str, Tensor] = {}  # modality → (2,): numbers of correct and of all labels in the last step

    @property
    def needs_whole_batch(self) -> bool:
        """True with L_gm, which is no sum over samples."""
        return self.direction_weight > 0

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return L_m, λ·L_gm and the losses of the classifiers."""
        if joint is None:
            raise ValueError("CGGM descends the joint loss: pass it")
        objectives = collect(joint, unimodal, encoders)
        if self.direction_weight > 0:
            self.check_whole_batch("CGGM with a direction_weight above 0", ", or set direction_weight to 0")
            counts = _counts(outputs, labels)
            if len(counts) > 1:
                objectives.losses[DIRECTION] = self.direction_weight * self._direction_loss(counts, outputs, labels)
                objectives.names.append(DIRECTION)
        return objectives

    def passes(self, objectives: Objectives) -> list[Pass]:
        """Return one pass for L_m + λ·L_gm, and one for the classifiers that ends at the features."""
        modulated = [name for name in objectives.names if name in (JOINT, DIRECTION)]
        classifiers = [name for name in objectives.names if name not in modulated]
        return [Pass(modulated, [*objectives.encoders]), Pass(classifiers, [])]

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → (2,) float64: the numbers of correct and of all labels."""
        return _counts(outputs, labels)

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return κ of every modality, 1 for one that is absent, then keep the accuracies if the step is finite."""
        counts = gradients.statistics
        kappa = self.rho * self._balance(counts)
        finite = gradients.finite.all().to(kappa.device)
        kept = {name: torch.where(finite, count, self._before(name, count)) for name, count in counts.items()}
        self.scores = self.scores | kept
        ones = {name: torch.ones_like(kappa[0]) for name in objectives.encoders}
        return ones if len(counts) == 1 else ones | dict(zip(counts, kappa.unbind(), strict=True))

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return κ·g."""
        return gradient * coefficient

    def _balance(self, counts: Mapping[str, Tensor]) -> Tensor:
        """Return B (n,) float64 of the modalities."""
        now = torch.stack([*counts.values()])
        before = torch.stack([self._before(name, count) for name, count in counts.items()])
        change = now[:, 0] / now[:, 1] - before[:, 0] / before[:, 1]
        total = change.sum()
        total = torch.where(total.abs() < ROUNDING, 0.0, total) + self.epsilon
        return torch.where(total == 0, 1.0, (total - change) / total)

    def _before(self, name: str, like: Tensor) -> Tensor:
        """Return the counts (2,) of the previous step; before the first one, no label of one."""
        if name in self.scores:
            return self.scores[name].to(like, non_blocking=True)
        return torch.arange(2, dtype=like.dtype, device=like.device)

    def _direction_loss(self, counts: Mapping[str, Tensor], outputs: Any, labels: Tensor) -> Tensor:
        """Return L_gm, ()."""
        logits, features = read_output(outputs, "joint"), read_output(outputs, "features")
        if logits is None or not logits.requires_grad or features is None:
            raise ValueError(
                "CGGM's L_gm needs outputs.joint, the logits (B, C) of the joint loss with their graph, and "
                "outputs.features, modality → the encoder's output; or set direction_weight to 0"
            )
        z = at_least_float32(logits)
        (at_joint,) = torch.autograd.grad(self.loss(z, labels), z, create_graph=True)
        terms = []
        for name, balance in zip(counts, self._balance(counts).unbind(), strict=True):
            own = at_least_float32(read_output(outputs, "unimodal")[name]).detach().requires_grad_()
            (at_own,) = torch.autograd.grad(self.loss(own, labels), own)
            x = at_least_float32(features[name]).flatten(1)
            cosine = F.cosine_similarity((at_joint.T @ x).flatten(), (at_own.T @ x.detach()).flatten(), dim=0)
            terms.append(balance.abs().to(cosine.dtype) - balance.to(cosine.dtype) * cosine)
        return torch.stack(terms).mean()


def _counts(outputs: Any, labels: Tensor | None) -> dict[str, Tensor]:
    """Return modality → (2,) float64: the numbers of correct and of all labels of its unimodal predictions."""
    if labels is None:
        raise ValueError("CGGM needs the labels: pass labels=…, as for the losses")
    unimodal = read_output(outputs, "unimodal")
    if not unimodal:
        raise ValueError(
            "CGGM needs its classifiers' predictions: pass outputs=… with `unimodal`, modality → logits (B, C)"
        )
    counts = {}
    for name, logits in unimodal.items():
        correct = _is_correct(logits.detach(), labels.to(logits.device)).double()
        counts[name] = torch.stack([correct.sum(), torch.full_like(correct.sum(), correct.numel())])
    return counts


def _is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the predicted class is the label (B,); of scores or several labels, whether the sign is right."""
    if labels.ndim == 1 and not labels.is_floating_point():
        return logits.argmax(1) == labels
    return (logits.reshape(labels.shape) > 0) == (labels > 0)
