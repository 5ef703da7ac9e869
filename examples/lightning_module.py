"""MMPareto in a LightningModule: manual optimization, mixed precision, two processes (strategy "ddp").

Run `python examples/lightning_module.py`; Lightning starts the second process itself.
"""

import sys
import tempfile
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from mmpareto import METHODS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 6


def make_clips(count: int) -> TensorDataset:
    """Audio features, video features and labels; video is the noisier one."""
    labels = torch.randint(CLASSES, (count,))
    audio = torch.randn(CLASSES, 20)[labels] + 2 * torch.randn(count, 20)
    visual = torch.randn(CLASSES, 30)[labels] + 4 * torch.randn(count, 30)
    return TensorDataset(audio, visual, labels)


class Classifier(lightning.LightningModule):
    """One encoder per modality, fusion by concatenation, and one more head per modality for the unimodal losses."""

    def __init__(self, method: str = "mmpareto") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # Lightning calls no backward, and training_step calls the optimizer
        self.encoders = nn.ModuleDict({"audio": nn.Linear(20, 32), "visual": nn.Linear(30, 32)})
        self.heads = nn.ModuleDict({"audio": nn.Linear(32, CLASSES), "visual": nn.Linear(32, CLASSES)})
        self.fusion = nn.Linear(64, CLASSES)
        self.integrate = METHODS[method]()  # an attribute of the module, so that checkpoints contain the method's state

    def forward(self, audio: Tensor, visual: Tensor) -> dict[str, Any]:
        features = {"audio": self.encoders["audio"](audio).relu(), "visual": self.encoders["visual"](visual).relu()}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        joint = self.fusion(torch.cat([*features.values()], dim=1))
        return {"joint": joint, "unimodal": unimodal, "features": features}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        *inputs, labels = batch
        outputs = self(*inputs)
        joint = cross_entropy(outputs["joint"], labels)
        unimodal = {name: cross_entropy(logits, labels) for name, logits in outputs["unimodal"].items()}

        optimizer = self.optimizers()
        optimizer.zero_grad()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # a GradScaler with 16-mixed, else None
        report = self.integrate.backward(joint, unimodal, outputs=outputs, labels=labels, scale=scaler)
        optimizer.step()  # Lightning unscales, and skips the step if a gradient is not finite

        accuracy = (outputs["joint"].argmax(dim=1) == labels).float().mean()
        conflicts = {f"conflict_{name}": encoder.conflict.float().mean() for name, encoder in report.items()}
        self.log_dict({"accuracy": accuracy, **conflicts}, on_step=False, on_epoch=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def main(method: str = "mmpareto") -> None:
    lightning.seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = ModelCheckpoint(folder, save_last=True)
        trainer = lightning.Trainer(
            max_epochs=3,
            devices=torch.cuda.device_count() or 2,
            strategy="ddp",
            precision="16-mixed" if torch.cuda.is_available() else "bf16-mixed",
            callbacks=[checkpoints],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model = Classifier(method)
        trainer.fit(model, DataLoader(make_clips(1024), batch_size=32, shuffle=True))
        if trainer.is_global_zero:
            print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
            restored = Classifier.load_from_checkpoint(checkpoints.last_model_path)
            for name, value in model.integrate.state_dict().items():
                torch.testing.assert_close(restored.integrate.state_dict()[name], value)


if __name__ == "__main__":
    main(*sys.argv[1:])
