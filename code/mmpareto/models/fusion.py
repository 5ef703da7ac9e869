"""Fusion modules: the features of all modalities → joint logits, or one modality's feature → unimodal logits."""

import abc
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Fusion(nn.Module, abc.ABC):
    """Maps {modality: feature (B, size)} to joint logits (B, C).

    It also predicts from one modality (`alone`): DGL trains every encoder through this shared fusion. A modality whose
    feature is absent is left out.

    Arguments:
        n_classes: number of joint logits, C.
    """

    additive = False
    """Whether the joint logits are a sum of one contribution per modality."""
    joint_only: Sequence[str] = ()
    """Names of the parameters that `alone` does not use."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    @abc.abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""

    @abc.abstractmethod
    def alone(self, name: str, feature: Tensor) -> Tensor:
        """Logits (B, C) from one modality's feature (B, size), with the same weights (DGL's released code)."""

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality → its contribution (B, C) to the joint logits, for those given; {} unless `additive`."""
        return {}


class ConcatFusion(Fusion):
    """Concatenates the features, then applies one linear head, `fc_out`: Σₖ W_k x_k + b.

    `alone` puts zeros in place of the other features, and `forward` in place of absent ones.

    Arguments:
        feature_sizes: modality → length of its feature; in the order of concatenation.
        n_classes: number of joint logits.
        bias: whether there is a bias b.
    """

    additive = True

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int, bias: bool = True) -> None:
        super().__init__(n_classes)
        self.sizes = dict(feature_sizes)
        self.fc_out = nn.Linear(sum(feature_sizes.values()), n_classes, bias=bias)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        given = [name for name in self.sizes if name in features]
        x = torch.cat([features[name] for name in given], dim=1)
        if len(given) == len(self.sizes):
            return self.fc_out(x)
        weights = self._weights()
        return nn.functional.linear(x, torch.cat([weights[name] for name in given], dim=1), self.fc_out.bias)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """W_k x_k + b."""
        return nn.functional.linear(feature, self._weights()[name], self.fc_out.bias)

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W_k x_k + b/n (OGM-GE's, for any number of modalities)."""
        bias = self.fc_out.bias / len(self.sizes)
        weights = {name: w for name, w in self._weights().items() if name in features}
        return {name: nn.functional.linear(features[name], w, bias) for name, w in weights.items()}

    def _weights(self) -> dict[str, Tensor]:
        return dict(zip(self.sizes, self.fc_out.weight.split([*self.sizes.values()], dim=1), strict=True))


class CosineFusion(ConcatFusion):
    """Sums scaled cosines between the features and the classes' weights: Σₖ s·cos(x_k, W_k,c), MMCosine.

    Xu et al., "MMCosine: multi-modal cosine loss towards balanced audio-visual fine-grained learning", ICASSP 2023
    (arXiv 2303.05338). Neither a feature's length nor a weight's favours a modality: each contributes between −s and s.
    W_k are the columns of one linear layer without a bias, as in `ConcatFusion`. `alone` is s·cos(x_k, W_k,c). A
    feature of zeros contributes 0. That features and weights are normalised per modality is the abstract's statement;
    the scale and the missing bias are those of the code.

    The released code (GeWu-Lab/MMCosine_ICASSP23, main_CD.py) trains these logits. It tests others, the linear layer of
    the concatenated features, whose bias it does not train; here, the test has the logits that were trained. Its NCE
    term, off by default there, is left out, and so are the cosines of features that FiLM or gates have mixed.

    Arguments:
        feature_sizes: modality → length of its feature; in the order of concatenation.
        n_classes: number of joint logits.
        scale: s > 0 [10 on CREMA-D].
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int, scale: float = 10.0) -> None:
        super().__init__(feature_sizes, n_classes, bias=False)
        self.scale = scale

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        return torch.stack([*self.contributions(features).values()]).sum(0)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """s·cos(x_k, W_k,c)."""
        return self.contributions({name: feature})[name]

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """s·cos(x_k, W_k,c)."""
        return {
            name: self.scale * nn.functional.linear(_unit(features[name]), _unit(weights))
            for name, weights in self._weights().items()
            if name in features
        }


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, float32 at least. Shorter ones than 1e-8 stay as they are, so that gradients are finite."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(lengths > 1e-8, lengths, 1.0)


class SumFusion(Fusion):
    """One linear head per modality, summed over those given: Σₖ fc_k(x_k). `alone` is fc_k(x_k).

    Arguments:
        feature_sizes: modality → length of its feature.
        n_classes: number of joint logits.
    """

    additive = True

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(n_classes)
        self.fc = nn.ModuleDict({name: nn.Linear(size, n_classes) for name, size in feature_sizes.items()})

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        return torch.stack([*self.contributions(features).values()]).sum(0)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """fc_k(x_k)."""
        return self.fc[name](feature)

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """fc_k(x_k)."""
        return {name: fc(features[name]) for name, fc in self.fc.items() if name in features}


class AverageFusion(Fusion):
    """Averages the predictions of one linear head per modality, log (1/n Σₖ softmax(fc_k(x_k))): late fusion.

    The joint logits are the logarithms of the mean probabilities; with one output, a score, they are the mean score.
    The mean is over the modalities that are given. `alone` is fc_k(x_k).

    Arguments:
        feature_sizes: modality → length of its feature.
        n_classes: number of joint logits.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(n_classes)
        self.fc = nn.ModuleDict({name: nn.Linear(size, n_classes) for name, size in feature_sizes.items()})

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        logits = torch.stack([self.alone(name, features[name]) for name in self.fc if name in features])
        if self.n_classes == 1:
            return logits.mean(0)
        return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """fc_k(x_k)."""
        return self.fc[name](feature)


class AverageLabelsFusion(AverageFusion):
    """Averages the probabilities σ(fc_k(x_k)) of one linear head per modality, label by label: late fusion.

    For several labels per sample, which do not exclude each other. The joint logits are the log-odds of the mean
    probabilities.
    """

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        logits = torch.stack([self.alone(name, features[name]) for name in self.fc if name in features])
        yes, no = (nn.functional.logsigmoid(z).logsumexp(0) for z in (logits, -logits))
        return yes - no  # the number of modalities cancels


def _one_length(feature_sizes: Mapping[str, int]) -> int:
    """The length of all features, for layers that they share."""
    sizes = sorted(set(feature_sizes.values()))
    if len(sizes) != 1:
        raise ValueError(f"one layer for all modalities takes features of one length, not {sizes}; sum takes any")
    return sizes[0]


class AverageLogitsFusion(Fusion):
    """Averages the logits of one linear layer that all modalities share: 1/n Σₖ (W x_k + b), the joint head of MBT.

    The mean is over the modalities that are given. `alone` is W x_k + b.

    Arguments:
        feature_sizes: modality → length of its feature, the same for all.
        n_classes: number of joint logits.

    Raises:
        ValueError: the features differ in length.
    """

    additive = True

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(n_classes)
        self.n_modalities = len(feature_sizes)
        self.fc = nn.Linear(_one_length(feature_sizes), n_classes)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        return torch.stack([self.fc(feature) for feature in features.values()]).mean(0)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """W x_k + b."""
        return self.fc(feature)

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(W x_k + b)/n."""
        return {name: self.fc(feature) / self.n_modalities for name, feature in features.items()}


class EntropyFusion(AverageLogitsFusion):
    """Weighs the logits of one linear layer that all modalities share by how certain each is, sample by sample.

    Σₖ λ_k z_k with z_k = W x_k + b and λ_k ∝ exp(max_j H_j − H_k), where H_k is the entropy of softmax(z_k): MLA's
    prediction (Zhang et al., CVPR 2024). The λ of the modalities that are given add up to 1. `alone` is z_k. Arguments
    and errors are those of `AverageLogitsFusion`.
    """

    additive = False  # λ_k depends on the other modalities

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        logits = torch.stack([self.fc(feature) for feature in features.values()])
        weights = (-self.entropies(logits)).softmax(0)  # the maximum cancels
        return (weights.to(logits.dtype) * logits).sum(0)

    def entropies(self, logits: Tensor) -> Tensor:
        """H_k of logits (n, B, C), as (n, B, 1); float32 at least."""
        return _entropy(logits, -1).sum(-1, keepdim=True)

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{}."""
        return {}


class EntropyOverBatchFusion(EntropyFusion):
    """`EntropyFusion` as MLA's released code computes it: one λ_k for the whole batch.

    There, softmax is over the samples of the batch instead of the classes, and H_k is summed over all of them. A
    prediction therefore depends on the other samples of its batch, and on the number of processes.
    """

    def entropies(self, logits: Tensor) -> Tensor:
        """H_k of logits (n, B, C), as (n, 1, 1); float32 at least."""
        return _entropy(logits, 1).sum((1, 2), keepdim=True)


def _entropy(logits: Tensor, dim: int) -> Tensor:
    """−p log p of p = softmax(logits) over `dim`, elementwise; float32 at least."""
    logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim)
    return -(logs.exp() * logs)


class BoostedFusion(Fusion):
    """Adds up the logits of one MLP that all modalities share, β Σₖ φ(x_k): ReconBoost's prediction (ICML 2024).

    φ has one hidden layer of 256 units with ReLU. β is learned, from 1. The sum is over the modalities that are given.
    `alone` is φ(x_k).

    Arguments:
        feature_sizes: modality → length of its feature, the same for all.
        n_classes: number of joint logits.

    Raises:
        ValueError: the features differ in length.
    """

    additive = True
    joint_only = ("rate",)
    HIDDEN = 256

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(n_classes)
        size = _one_length(feature_sizes)
        self.head = nn.Sequential(nn.Linear(size, self.HIDDEN), nn.ReLU(), nn.Linear(self.HIDDEN, n_classes))
        self.rate = nn.Parameter(torch.ones(()))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        return torch.stack([*self.contributions(features).values()]).sum(0)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """φ(x_k)."""
        return self.head(feature)

    def contributions(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """β φ(x_k)."""
        return {name: self.rate * self.head(feature) for name, feature in features.items()}


class PairFusion(Fusion):
    """Base class of fusions of exactly two modalities.

    They work on features of one length. If the two differ, a linear layer first maps the longer one to the length of
    the shorter one.

    Without one of the two, the joint logits are those of the other `alone`.

    Arguments:
        feature_sizes: first and second modality → length of its feature.
        n_classes: number of joint logits.

    Raises:
        ValueError: the number of modalities is not two.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(n_classes)
        if len(feature_sizes) != 2:
            raise ValueError(f"it fuses two modalities, not {len(feature_sizes)}; concat and sum fuse any number")
        self.first, self.second = feature_sizes
        self.size = min(feature_sizes.values())
        longer = {name: size for name, size in feature_sizes.items() if size > self.size}
        self.project = nn.ModuleDict({name: nn.Linear(size, self.size) for name, size in longer.items()})
        self.fc_out = nn.Linear(self.size, n_classes)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        if len(features) == 1:
            return self.alone(*next(iter(features.items())))
        first, second = (self.projected(name, features[name]) for name in (self.first, self.second))
        return self.fc_out(self.fuse(first, second))

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """Logits with the feature as both inputs."""
        feature = self.projected(name, feature)
        return self.fc_out(self.fuse(feature, feature))

    def projected(self, name: str, feature: Tensor) -> Tensor:
        """The feature (B, size), of the length that is fused."""
        return self.project[name](feature) if name in self.project else feature

    @abc.abstractmethod
    def fuse(self, first: Tensor, second: Tensor) -> Tensor:
        """The fused feature (B, size)."""


class FiLMFusion(PairFusion):
    """The first feature scales and shifts the second, γ(x)·y + β(x); a linear head follows (OGM-GE's FiLM).

    Perez et al., "FiLM: visual reasoning with a general conditioning layer", AAAI 2018. With
    `alone`, a modality modulates itself.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(feature_sizes, n_classes)
        self.fc = nn.Linear(self.size, 2 * self.size)

    def fuse(self, first: Tensor, second: Tensor) -> Tensor:
        """γ(x)·y + β(x)."""
        gamma, beta = self.fc(first).chunk(2, dim=1)
        return gamma * second + beta


class BilinearFusion(PairFusion):
    """The outer product x⊗y, a linear layer back to the feature's length, and a linear head.

    The released DGL code calls it FiLM. `alone` uses x⊗x, since zeros for the other modality would leave no gradient.
    The linear layer has size³ weights: 134 million for ResNet-18's 512.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(feature_sizes, n_classes)
        self.fc = nn.Linear(self.size**2, self.size)

    def fuse(self, first: Tensor, second: Tensor) -> Tensor:
        """The linear layer of x⊗y."""
        return self.fc((first.unsqueeze(2) * second.unsqueeze(1)).flatten(1))


class GatedFusion(PairFusion):
    """With f_k = fc_k(x_k), the first gates the second: fc_out(σ(f_1)·f_2).

    Kiela et al., "Efficient large-scale multi-modal classification", AAAI 2018. With `alone`, a modality gates
    itself: fc_out(σ(f_k)·f_k). The released DGL code detaches the joint loss from fc_k, which therefore never trains;
    here it is part of the fusion and is trained.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(feature_sizes, n_classes)
        self.fc = nn.ModuleDict({name: nn.Linear(self.size, self.size) for name in feature_sizes})

    def fuse(self, first: Tensor, second: Tensor) -> Tensor:
        """σ(f_1)·f_2."""
        return self.fc[self.first](first).sigmoid() * self.fc[self.second](second)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """fc_out(σ(f_k)·f_k)."""
        own = self.fc[name](self.projected(name, feature))
        return self.fc_out(own.sigmoid() * own)
