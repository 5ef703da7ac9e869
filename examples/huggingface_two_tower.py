"""MMPareto on two Hugging Face models: a text and an image tower with a fused head. Random weights, nothing downloaded.

Run `python examples/huggingface_two_tower.py`.
"""

from typing import Any

import torch
from mmpareto import MMPareto
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

CLASSES = 4


class TwoTower(nn.Module):
    """Text and image tower; a head on both outputs, and one on each for the unimodal losses."""

    def __init__(self, text: nn.Module, image: nn.Module) -> None:
        super().__init__()
        self.text, self.image = text, image
        sizes = {"text": text.config.hidden_size, "image": image.config.hidden_size}
        self.heads = nn.ModuleDict({name: nn.Linear(size, CLASSES) for name, size in sizes.items()})
        self.fused_head = nn.Linear(sum(sizes.values()), CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> dict[str, Any]:
        text = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        image = self.image(pixel_values=pixel_values).last_hidden_state[:, 0]
        unimodal = {"text": self.heads["text"](text), "image": self.heads["image"](image)}
        joint = self.fused_head(torch.cat([text, image], dim=1))
        return {"joint": joint, "unimodal": unimodal, "features": {"text": text, "image": image}}


def make_pairs(count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Captions with words of their class, and images with a brightness of their class under noise."""
    labels = torch.randint(CLASSES, (count,))
    words = torch.randint(10, (count, 12)) + 10 * labels[:, None]
    words[:, 0] = 99  # [CLS]
    pixels = labels[:, None, None, None] / CLASSES + torch.randn(count, 3, 16, 16)
    return {"input_ids": words, "attention_mask": torch.ones_like(words), "pixel_values": pixels}, labels


def main() -> None:
    torch.manual_seed(0)
    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = BertModel(BertConfig(vocab_size=100, **layers))  # pretrained: BertModel.from_pretrained("bert-base-uncased")
    image = ViTModel(ViTConfig(image_size=16, patch_size=4, **layers))
    model = TwoTower(text, image)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    integrate = MMPareto()

    inputs, targets = make_pairs(256)
    for epoch in range(1, 5):
        correct = 0
        for indices in torch.randperm(len(targets)).split(32):
            labels = targets[indices]
            outputs = model(**{name: tensor[indices] for name, tensor in inputs.items()})
            joint = cross_entropy(outputs["joint"], labels)
            unimodal = {name: cross_entropy(logits, labels) for name, logits in outputs["unimodal"].items()}

            optimizer.zero_grad()
            # `encoders` could be left out. Each of these models has a pooler, which no loss reaches: its .grad remains
            # None, as with loss.backward().
            towers = {"text": model.text, "image": model.image}
            report = integrate.backward(joint, unimodal, encoders=towers, outputs=outputs)
            optimizer.step()
            correct += int((outputs["joint"].argmax(dim=1) == labels).sum())
        cosines = ", ".join(f"{name} {float(encoder.cosine):+.2f}" for name, encoder in report.items())
        print(f"epoch {epoch}: accuracy {correct / len(targets):.1%}; cosines of the last step: {cosines}")

    assert model.text.pooler.dense.weight.grad is None


if __name__ == "__main__":
    main()
