"""UMT, uni-modal teacher (Du et al., ICML 2023, arXiv 2305.01233; first in arXiv 2106.11059)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect, split_entry
from mmpareto.integration.options import check_positive


class UMT(PlainSum):
    """UMT, uni-modal teacher: keep every feature close to that of an encoder that was trained alone.

    The teacher of modality k is an encoder that was trained by the unimodal loss alone; it is frozen, and always in
    evaluation mode. With x_k the feature of encoder k (B, F), and t_k that of its teacher for the same inputs,

        L = L_m + λ Σₖ MSE(x_k, t_k),   MSE the mean over samples and features

    is descended in one backward pass. The unimodal losses are ignored. A step takes one further forward pass, that of
    the teachers. With one modality, the teacher is of the same modality as the student.

    In train.py, `teachers` are folders of runs (for their best.pt) or checkpoints, which together have every modality
    once: one `--method unimodal` per modality, or one `--method ensemble`. A teacher of the run's own seed has not seen
    the samples that the run holds out. The files are read again when a run is resumed.

    The authors' code was not found, and the paper's text was not at hand: that its distance is the mean squared error,
    and the value of its λ, are unchecked. The default, λ = 10, is that of BalanceBenchmark (GeWu-Lab,
    balancemm/trainer/UMT_trainer.py), which descends the same loss in epochs 0 to 80 but leaves the teachers in
    training mode: their features depend on the batch, and their BatchNorm averages drift during the training of the
    student. That is not offered here.

    In your own loop, call `teach(…)` with the teachers' features, computed in evaluation mode, before every `backward`,
    which needs `outputs.features`, modality → x_k (B, …).

    Arguments:
        distillation_weight: λ > 0 [not known; BalanceBenchmark: 10].
        teachers: folders or checkpoints of the teachers' runs.

    Raises:
        ValueError: λ is not positive; a modality has no teacher or two, or one of another feature size; `backward`: the
            joint loss, a feature, or its teacher's is missing.
    """

    source = "Du et al., UMT, ICML 2023 (arXiv 2305.01233)"
    files = ("teachers",)
    descends_unimodal = False
    needs_fusion = True

    def __init__(self, distillation_weight: float = 10.0, teachers: tuple[str, ...] = ()) -> None:
        super().__init__()
        check_positive("distillation_weight", distillation_weight)
        self.distillation_weight, self.teachers = distillation_weight, tuple(teachers)
        self._networks: list[Any] = []
        self._targets: dict[str, Tensor] = {}

    def begin_training(self, context: TrainingContext) -> None:
        """Load the teachers of all modalities."""
        self._networks = [context.load_network(path) for path in self.teachers]
        students = dict(context.network.encoders.items())
        found: set[str] = set()
        for path, network in zip(self.teachers, self._networks, strict=True):
            if getattr(network, "interaction", False):
                raise ValueError(f"teacher {path} is not unimodal: its encoders exchange information")
            for name in network.modalities:
                if name in found:
                    raise ValueError(f"{name} has two teachers, the second in {path}: give one per modality")
                theirs, ours = (getattr(e, "feature_size", None) for e in (network.encoders[name], students[name]))
                if theirs != ours:
                    raise ValueError(f"teacher {path} has features of {name} of size {theirs}, and this network {ours}")
                found.add(name)
        if missing := [name for name in students if name not in found]:
            raise ValueError(
                f"UMT needs a teacher of {' and '.join(missing)}: give --teachers the folders of runs by --method "
                "unimodal or ensemble"
            )

    def before_forward(self, context: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Compute the teachers' features of the batch."""
        features: dict[str, Tensor] = {}
        for network in self._networks:
            given = {name: inputs[name] for name in network.modalities if name in inputs}
            features |= context.eval_forward(given, network=network).features if given else {}
        self.teach(features)
        return {}

    def teach(self, features: Mapping[str, Tensor]) -> None:
        """Set the teachers' features of the next batch, modality → t_k (B, …); a modality may be absent."""
        self._targets = {name: target.detach() for name, target in features.items()}

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, and λ·MSE of every modality for its own encoder."""
        features = read_output(outputs, "features")
        if joint is None or features is None:
            missing = "the joint loss: pass it" if joint is None else "the features: pass outputs=… with `features`"
            raise ValueError(f"UMT needs {missing}")
        weight = self.distillation_weight * self.share
        losses: dict[str, Tensor | None] = {}
        learning: dict[str, tuple[Any, Sequence[str]]] = {}
        for name, given in encoders.items():
            term = f"distillation of {name}"
            losses[term] = weight * self._distance(name, features[name]) if name in features else None
            learning[name] = split_entry(given, ())[0], [term]
        return collect(joint, losses, learning)

    def _distance(self, name: str, feature: Tensor) -> Tensor:
        """Return the mean squared distance () of a feature to its teacher's, in float32 at least; 0 without samples."""
        target = self._targets.get(name)
        if target is None:
            raise ValueError(
                f"UMT has no feature of the teacher of {name!r}: call teach() with the teachers' features before every "
                "backward()"
            )
        if target.shape != feature.shape:
            raise ValueError(
                f"the features of {name!r} have shape {tuple(feature.shape)}, but its teacher's {tuple(target.shape)}"
            )
        x = at_least_float32(feature)
        return F.mse_loss(x, target.to(x), reduction="sum") / max(feature.numel(), 1)
