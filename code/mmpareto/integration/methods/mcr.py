"""MCR, multimodal competition regulariser (Kontras et al., NeurIPS 2025, arXiv 2411.07335)."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

from mmpareto.integration.comparisons import jensen_shannon
from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import read_output
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.fusing import FusingMethod
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect
from mmpareto.integration.options import check_at_least, check_choice, check_positive

Parts: TypeAlias = Mapping[str, Tensor]

GREEDY, INDEPENDENT, COLLABORATIVE = STRATEGIES = ("greedy", "independent", "collaborative")
# The names of λ_M·L_MIPD, λ_C·L_Con and λ_B·L_CEB.
UNIQUE, SHARED, IRRELEVANT = "unique information", "shared information", "irrelevant information"
BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8  # PyTorch's defaults


class MCR(PlainSum, FusingMethod):
    """MCR, multimodal competition regulariser: a game of the modalities about their influence on the prediction.

    With z(S) the joint logits after the modalities in S have been permuted among the samples, and JSD the
    Jensen-Shannon divergence, a mean over samples and `permutations` permutations:

        D_S = JSD(softmax(z(S)), softmax(z(∅)))                          the influence of S
        L = L_m + λ_u Σₖ L_uᵏ + λ_M·L_MIPD + λ_C·L_Con + λ_B·L_CEB
        ∂L_MIPD/∂θₖ = Σ over S ∋ k of −∂D_S/∂θₖ  +  Σ over S ∌ k of −κ·∂D_S/∂θₖ        (S neither empty nor all)

    Every modality k is a player with its own parameters θₖ, who raises its influence. κ is −1 for "greedy" (it also
    lowers that of the others), 0 for "independent" and 1 for "collaborative". L_Con is the supervised NT-Xent loss of
    the normalised features of all modalities, with cosines s and temperature τ: the mean of
    −log e^{s_ij/τ} / (e^{s_ij/τ} + Σ over l of another class of e^{s_il/τ}) over all i ≠ j of the same class. L_CEB is
    the mean squared difference between the features of all modalities and B·relu(A·z), which predicts them from the
    joint logits z as constants; A (F, C) and B (nF, F) are trained on it by Adam.

    What a player controls is z_k, its contribution to joint logits that are a sum (θₖ then includes its weights in
    the joint head), and x_k for other fusions, whose parameters are no player's: they descend −Σ D_S, or nothing in a
    greedy game. All permuted predictions are made from the features of the forward pass; fusions that are no sum are
    applied up to 2·(2ⁿ − 2) times to `permutations` copies of the batch. One backward pass. With one modality,
    L_m + λ_u L_u is descended.

    The equations are those of the authors' README and of their code (kkontras/MCR at 338d370); of the paper, only a
    summary was at hand, which names the same three losses. `variants["paper"]` differentiates D_S as a whole, as the
    README's formula says. In `variants["released"]`, z(∅) has the gradient of all players, whichever z(S) has; in a
    greedy game, this cancels, so that z(∅) is a constant. The released predictor is trained by the optimizer of the
    model, Adam. Left out:

    - With two modalities, the released features to be permuted come from a second forward pass, in evaluation mode.
    - At that commit, the class for two modalities computes L_MIPD and L_Con but does not add them to the loss, as
      those for regression and for three modalities do. The code does not know the strategies' names in run.sh.
    - With three modalities, parameters that belong to no player get multiples of ∂D_S, and the "collaborative" game has
      D of the first modality three times.
    - Regression, with squared differences of the predictions in place of the JSD.

    Permutations are drawn from PyTorch's generator of the device. L_MIPD and L_Con compare the samples of a batch, so
    that a step needs the whole batch: gradient accumulation and several processes are refused.

    In your own loop, call `use_fusion(…)` once before training unless the model's outputs have `contributions`.
    `backward` needs the labels, and `outputs` with `features`, modality → x_k (B, F), and, if the joint logits are a
    sum over modalities, `contributions`, modality → z_k (B, C).

    Arguments:
        strategy: "greedy", "independent" or "collaborative".
        competition_weight: λ_M ≥ 0 [0.1 on CREMA-D, 0.01 on AVE, 0.001 on UCF-101].
        contrastive_weight: λ_C ≥ 0 [1]. Above 0, features must have one length.
        bottleneck_weight: λ_B ≥ 0 [0 with ResNets, 1 with most transformers]. Above 0, features must have one length.
        unimodal_weight: λ_u > 0 [0.01 on CREMA-D and AVE, 0.1 on UCF-101, 1 with transformers].
        permutations: number of permutations in a step, ≥ 1 [32].
        contrastive_temperature: τ > 0 [0.5].
        predictor_learning_rate: learning rate of Adam for the predictor, > 0 [1e-4 and 5e-5].
        unpermuted: the players through which z(∅) is differentiated: "same": those of z(S); "all".

    Raises:
        ValueError: an option is out of range; `backward`: the joint loss, a unimodal loss, the labels or an output is
            missing, features differ in length, or the batch is not whole.
    """

    source = "Kontras et al., MCR, NeurIPS 2025 (arXiv 2411.07335)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"unpermuted": "same"},
        "released": {"unpermuted": "all"},
    }
    without_effect: ClassVar[Mapping[str, Mapping[str, Any]]] = {"predictor_learning_rate": {"bottleneck_weight": 0}}
    memory = ("predictor",)
    needs_fusion = True
    needs_classes = True

    def __init__(
        self,
        strategy: str = GREEDY,
        competition_weight: float = 0.1,
        contrastive_weight: float = 1.0,
        bottleneck_weight: float = 0.0,
        unimodal_weight: float = 0.01,
        permutations: int = 32,
        contrastive_temperature: float = 0.5,
        predictor_learning_rate: float = 1e-4,
        unpermuted: str = "same",
    ) -> None:
        super().__init__()
        check_choice("strategy", strategy, STRATEGIES)
        check_at_least("competition_weight", competition_weight, 0)
        check_at_least("contrastive_weight", contrastive_weight, 0)
        check_at_least("bottleneck_weight", bottleneck_weight, 0)
        check_positive("unimodal_weight", unimodal_weight)
        check_at_least("permutations", permutations, 1)
        check_positive("contrastive_temperature", contrastive_temperature)
        check_positive("predictor_learning_rate", predictor_learning_rate)
        check_choice("unpermuted", unpermuted, ("same", "all"))
        self.strategy, self.permutations, self.unpermuted = strategy, permutations, unpermuted
        self.competition_weight, self.contrastive_weight = competition_weight, contrastive_weight
        self.bottleneck_weight, self.predictor_learning_rate = bottleneck_weight, predictor_learning_rate
        self.unimodal_weight, self.contrastive_temperature = unimodal_weight, contrastive_temperature
        self.predictor: dict[str, Tensor] = {}  # A and B, Adam's two means of each, and its number of steps
        self._leaves: dict[str, Tensor] = {}  # A and B as the current step differentiates them

    @property
    def needs_whole_batch(self) -> bool:
        """True: samples of a batch are compared."""
        return True

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return L_m, λ_u·L_uᵏ, λ_M·L_MIPD, λ_C·L_Con and λ_B·L_CEB."""
        if joint is None:
            raise ValueError("MCR descends the joint loss: pass it")
        self.check_whole_batch("MCR")
        objectives = collect(joint, unimodal, encoders)
        for name in unimodal:
            if name in objectives.losses:
                objectives.losses[name] = self.unimodal_weight * objectives.losses[name]
        features = read_output(outputs, "features")
        if labels is None or not features:
            raise ValueError(
                "MCR needs labels=…, the class indices (B,), and outputs=… with `features`, modality → (B, F)"
            )
        if len(features) > 1 and self.competition_weight > 0:
            competition = self._competition(features, read_output(outputs, "contributions"))
            objectives.losses[UNIQUE] = self.competition_weight * competition
        if len(features) > 1 and self.contrastive_weight > 0:
            objectives.losses[SHARED] = self.contrastive_weight * contrastive_loss(
                features, labels, self.contrastive_temperature
            )
        if len(features) > 1 and self.bottleneck_weight > 0:
            objectives.losses[IRRELEVANT] = self.bottleneck_weight * self._prediction_error(features, outputs)
        objectives.names += [name for name in (UNIQUE, SHARED, IRRELEVANT) if name in objectives.losses]
        return objectives

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Take the predictor's step, if there is one and the step is finite."""
        leaves, self._leaves = self._leaves, {}
        if leaves:
            finite = gradients.finite.all()
            steps = self.predictor.get("steps", torch.zeros_like(gradients.scale))
            updated = {"steps": steps.to(finite.device, non_blocking=True) + finite}
            for name, leaf in leaves.items():
                gradient = gradients.others.pop(leaf) / gradients.scale
                updated |= self._adam(name, leaf.detach(), gradient, updated["steps"], finite)
            self.predictor = updated
        return {}

    def _competition(self, features: Parts, contributions: Parts | None) -> Tensor:
        """Return a loss () with the gradient of L_MIPD."""
        parts = {name: at_least_float32(x) for name, x in (contributions or features).items()}
        predict = _sum if contributions else self.fuse
        count = len(next(iter(parts.values())))
        copies = {name: x.repeat(self.permutations, *[1] * (x.ndim - 1)) for name, x in parts.items()}
        permuted = {name: x[self._permutation(count, x)] for name, x in parts.items()}
        terms = []
        for subset in proper_subsets([*parts]):
            mixed = {name: permuted[name] if name in subset else x for name, x in copies.items()}
            for factor, live in self._shares(subset, [*parts]):
                reference = parts if self.unpermuted == "all" else _live(parts, live)
                z = predict(_live(mixed, live))
                divergence = jensen_shannon(z, predict(reference).repeat(self.permutations, 1))
                terms.append(factor * divergence)
        return torch.stack(terms).sum()

    def _shares(self, subset: Collection[str], names: Collection[str]) -> Iterator[tuple[float, Collection[str]]]:
        """Yield factors of D_S, each with the players that learn from it."""
        if self.strategy == COLLABORATIVE:
            yield -1.0, names
            return
        yield -1.0, subset
        if self.strategy == GREEDY:
            yield 1.0, [name for name in names if name not in subset]

    def _prediction_error(self, features: Parts, outputs: Any) -> Tensor:
        """Return L_CEB, ()."""
        logits = read_output(outputs, "joint")
        if logits is None:
            raise ValueError("MCR's bottleneck loss needs outputs.joint, the joint logits (B, C)")
        z, x = at_least_float32(logits).detach(), torch.cat([*_of_one_length(features, "bottleneck").values()], dim=1)
        width = x.shape[1] // len(features)
        shapes = {"hidden": (width, z.shape[1]), "output": (x.shape[1], width)}
        for name, shape in shapes.items():
            weight = self.predictor.get(name)
            if weight is None:
                weight = nn.init.kaiming_uniform_(x.new_empty(shape), a=math.sqrt(5))  # as nn.Linear
            self._leaves[name] = weight.to(x, non_blocking=True).clone().requires_grad_()
        return F.mse_loss((z @ self._leaves["hidden"].T).relu() @ self._leaves["output"].T, x)

    def _adam(self, name: str, weight: Tensor, gradient: Tensor, steps: Tensor, finite: Tensor) -> dict[str, Tensor]:
        """Return the weight and Adam's means after a step, or before it if that is not finite."""
        zero = torch.zeros_like(weight)
        mean, square = (self.predictor.get(f"{name}.{kind}", zero).to(zero) for kind in ("mean", "square"))
        new_mean = BETA_1 * mean + (1 - BETA_1) * gradient
        new_square = BETA_2 * square + (1 - BETA_2) * gradient.square()
        size = (new_square / (1 - BETA_2**steps)).sqrt() + ADAM_EPSILON
        stepped = weight - self.predictor_learning_rate * (new_mean / (1 - BETA_1**steps)) / size
        return {
            name: torch.where(finite, stepped, weight),
            f"{name}.mean": torch.where(finite, new_mean, mean),
            f"{name}.square": torch.where(finite, new_square, square),
        }

    def _permutation(self, count: int, like: Tensor) -> Tensor:
        """Return the rows (permutations · count,) of several permutations, one after another."""
        return torch.rand(self.permutations, count, device=like.device).argsort(1).flatten()


def proper_subsets(names: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield the subsets of names that are neither empty nor all."""
    return itertools.chain.from_iterable(itertools.combinations(names, size) for size in range(1, len(names)))


def contrastive_loss(features: Parts, labels: Tensor, temperature: float) -> Tensor:
    """Return the supervised NT-Xent loss () of features (B, F) of several modalities; 0 if there is one class.

    As `NTXentLoss` of PyTorch Metric Learning, applied to the features of all modalities as one batch.

    Raises:
        ValueError: features differ in length.
    """
    flat = _of_one_length(features, "contrastive")
    z = torch.cat([F.normalize(x, dim=1) for x in flat.values()])
    y = labels.to(z.device).repeat(len(flat))
    similarity = z @ z.T / temperature
    same = y.unsqueeze(0) == y.unsqueeze(1)
    # A finite number in place of −∞, whose gradient would be NaN in a row without another class.
    others = similarity.masked_fill(same, torch.finfo(z.dtype).min / 2).logsumexp(1, keepdim=True)
    losses = torch.logaddexp(similarity, others) - similarity
    pairs = same & ~torch.eye(len(y), dtype=torch.bool, device=z.device)
    return torch.where(pairs, losses, 0.0).sum() / pairs.sum()


def _of_one_length(features: Parts, loss: str) -> dict[str, Tensor]:
    """Return the features (B, F), in float32 at least; raises ValueError if F differs."""
    flat = {name: at_least_float32(x).flatten(1) for name, x in features.items()}
    if len({x.shape[1] for x in flat.values()}) > 1:
        lengths = ", ".join(f"{x.shape[1]} ({name})" for name, x in flat.items())
        raise ValueError(
            f"MCR's {loss} loss takes features of one length, and these have {lengths}: set {loss}_weight to 0 "
            f"(--{loss}_weight 0), or take encoders with features of one length"
        )
    return flat


def _live(parts: Parts, live: Collection[str]) -> dict[str, Tensor]:
    """Return the parts, with a graph for those in `live` only."""
    return {name: x if name in live else x.detach() for name, x in parts.items()}


def _sum(parts: Parts) -> Tensor:
    return torch.stack([*parts.values()]).sum(0)
