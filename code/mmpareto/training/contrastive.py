"""Contrastive pre-training, `--objective contrastive`: the losses compare samples of a batch, and no label is used.

With B samples per batch, every sample has two random views (`views.two_views`). The joint loss L_m is the InfoNCE loss
between the modalities of a sample, as in CLIP, and the unimodal loss L_uᵏ the NT-Xent loss between the two views of
modality k, as in SimCLR; both together are SLIP's. Every encoder so has the objectives {L_m, L_uᵏ} of the supervised
case, and every method that combines gradients applies unchanged.

Sources: van den Oord, Li & Vinyals, "Representation learning with contrastive predictive coding" (InfoNCE), arXiv
1807.03748; Chen et al., "A simple framework for contrastive learning of visual representations" (SimCLR), ICML 2020;
Radford et al., "Learning transferable visual models from natural language supervision" (CLIP), ICML 2021; Mu et al.,
"SLIP: self-supervision meets language-image pre-training", ECCV 2022.
"""

import itertools
import math
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.data.loading.batches import Batch
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.integration.comparisons import info_nce, normalised
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.method import Method
from mmpareto.models.network import Outputs
from mmpareto.models.projections import PROJECTION_SIZE
from mmpareto.training.data import Data
from mmpareto.training.distributed import SINGLE_PROCESS, Processes
from mmpareto.training.evaluation import Predictions
from mmpareto.training.losses import Losses
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.objective import Objective
from mmpareto.training.settings import Settings
from mmpareto.training.views import VIEWS, two_views


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent loss () of SimCLR: each of the 2B views is to find the other view of its sample among the 2B − 1 others.

    Arguments: as for `info_nce`.
    """
    views = normalised(torch.cat([first, second]))
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    similarity = (views @ views.T / temperature).masked_fill(itself, -math.inf)
    return F.cross_entropy(similarity, torch.arange(len(views), device=views.device).roll(len(first)))


class Contrastive(Objective):
    """The objective of contrastive pre-training.

    The negatives of a sample are the other samples of its batch. With several processes, every process computes the
    losses of the whole batch from the projections of all; only those of its own samples require a gradient, so that
    the sum over the processes is the batch's gradient. (A batch that is split into micro-batches, `--accumulate`, would
    lose negatives: refused.) DataParallel gathers the projections anyway.

    The network has projections in place of fusion and heads.
    """

    uses_labels = False
    network = MappingProxyType({"projections": PROJECTION_SIZE})
    instead_of_fusion = "projections"
    no_interaction = "compares encoders that see one modality each"

    def __init__(self, settings: Settings, data: Data, processes: Processes = SINGLE_PROCESS) -> None:
        super().__init__(settings, data, processes)
        self.temperature, self.seed = settings.temperature, settings.random_seed
        self.images = data.train.normalisation  # keyed by the modalities of images and clips

    @classmethod
    def check(cls, settings: Settings, data: Data, method: Method) -> None:
        """Raise InputError if the method needs labels or a fusion, or there is one modality only."""
        given, objective = f"--method {settings.method}", f"--objective {settings.objective}"
        if method.needs_classes:
            raise InputError(f"{given} compares classes, and {objective} has no labels; use another method.")
        if method.needs_labels:
            raise InputError(f"{given} reads labels, and {objective} has none; use another method.")
        if method.trains_copies:
            raise InputError(f"{given} trains copies on labels, and {objective} has none; use another method.")
        if "fusion" in method.network:
            raise InputError(
                f"{given} needs the fusion {method.network['fusion']!r}, and {objective} has projections instead; use "
                "another method."
            )
        if settings.fusion != "concat":  # the flag's default is not the user's choice
            raise InputError(f"{objective} has projections instead of a fusion; leave --fusion out.")
        if len(data.train.sources) < 2:
            raise InputError(
                f"{objective} compares the modalities of a sample, and this run reads "
                f"{', '.join(data.train.sources)} alone; it needs two or more."
            )

    def inputs(self, batch: Batch, samples: int, epoch: int, step: int) -> dict[str, Tensor]:
        """Two views per sample, (2B, …); a function of (seed, epoch, step)."""
        return two_views(batch.inputs, self.images, samples, (self.seed, epoch, step), self.processes.share)

    def losses(self, outputs: Outputs, labels: Tensor, samples: int) -> Losses:
        """Joint loss: the mean `info_nce` over the two views and all pairs of modalities. Unimodal losses: `nt_xent`.

        Arguments:
            outputs: projections of (2B, …) views, the two of a sample in adjacent rows.
            labels: ignored.
            samples: number of samples in the whole batch, over all processes.
        """
        assert outputs.joint is not None  # several tasks are of one modality, which is refused
        with torch.autocast(outputs.joint.device.type, enabled=False):  # similarities need more than 8 bits
            pairs = [
                (view[:, one], view[:, other])
                for view in self._whole(outputs.joint, samples)
                for one, other in itertools.combinations(range(view.shape[1]), 2)
            ]
            joint = torch.stack([info_nce(*pair, self.temperature) for pair in pairs]).mean()
            unimodal = {
                name: nt_xent(first, second, self.temperature)
                for name, projections in outputs.unimodal.items()
                for first, second in [self._whole(projections, samples)]
            }
        return Losses(joint, unimodal)

    def _whole(self, projections: Tensor, samples: int) -> tuple[Tensor, ...]:
        """The projections (samples, …) of each view for the whole batch."""
        own = at_least_float32(projections)
        own = own.unflatten(0, (len(own) // VIEWS, VIEWS))  # not −1: a process may have no sample
        if not self.processes.is_distributed:
            return own.unbind(1)
        indices = torch.tensor(self.processes.share.indices(samples), dtype=torch.int64, device=own.device)
        return self.processes.all_gather(own.detach(), samples).index_copy(0, indices, own).unbind(1)

    def training_metrics(
        self, outputs: Outputs, batch_losses: Losses, labels: Tensor, share: float, *, unimodal: bool
    ) -> dict[str, Tensor]:
        """train_loss and, with `unimodal`, train_loss_<modality>, () each; those of all processes add up."""
        assert batch_losses.joint is not None
        losses = {"": batch_losses.joint} | ({f"_{k}": v for k, v in batch_losses.unimodal.items()} if unimodal else {})
        return {f"train_loss{head}": loss.detach() * share for head, loss in losses.items()}

    def metrics(self, predictions: Predictions, dataset: PreparedDataset, prefix: str = "") -> dict[str, Any]:
        """A part's metrics in metrics.jsonl: the joint loss, of samples without augmentation.

        The samples are compared in batches of about the training's size, in a random order that is always the same:
        the loss grows with the number of negatives, and a data set may be sorted by class. The accuracies on the test
        set are those of linear probes: None, until some are fitted.
        """
        joint = predictions.outputs.joint
        assert joint is not None
        order = torch.randperm(len(joint), generator=torch.Generator().manual_seed(0))
        total = 0.0
        for rows in order.tensor_split(math.ceil(len(joint) / self.settings.batch_size)):
            pairs = itertools.combinations(joint[rows].unbind(1), 2)
            losses = [info_nce(one, other, self.temperature) for one, other in pairs]
            total += torch.stack(losses).mean().item() * len(rows) / len(joint)
        if not math.isfinite(total):
            raise NonFiniteError("the joint loss in evaluation is NaN or infinite")
        heads = () if prefix else ("", *(f"_{name}" for name in predictions.outputs.features))
        return {"objective": self.settings.objective, f"{prefix}loss": total, **{f"acc{head}": None for head in heads}}
