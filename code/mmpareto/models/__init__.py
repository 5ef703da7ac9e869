"""Encoders, fusion modules and the network that joins them."""

from mmpareto.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "resnet18": "mmpareto.models.resnet:ResNet18",
        "resnet34": "mmpareto.models.resnet:ResNet34",
        "resnet50": "mmpareto.models.resnet:ResNet50",
        "cnn": "mmpareto.models.small_cnn:SmallCNN",
        "lenet": "mmpareto.models.lenet:LeNet",
        "transformer": "mmpareto.models.transformer:SequenceTransformer",
        "mlp": "mmpareto.models.mlp:MLP",
        "mbt-base": "mmpareto.models.mbt:MBTBase",
        "mbt-small": "mmpareto.models.mbt:MBTSmall",
        "mbt-tiny": "mmpareto.models.mbt:MBTTiny",
    },
    families={
        "timm": "mmpareto.models.timm_encoder:TimmEncoder",
        "hf": "mmpareto.models.hf_encoder:HuggingFaceEncoder",
    },
)
FUSIONS = Registry(
    "fusion",
    {
        "concat": "mmpareto.models.fusion:ConcatFusion",
        "sum": "mmpareto.models.fusion:SumFusion",
        "cosine": "mmpareto.models.fusion:CosineFusion",
        "film": "mmpareto.models.fusion:FiLMFusion",
        "bilinear": "mmpareto.models.fusion:BilinearFusion",
        "gated": "mmpareto.models.fusion:GatedFusion",
        "average": "mmpareto.models.fusion:AverageFusion",
        "average_labels": "mmpareto.models.fusion:AverageLabelsFusion",
        "average_logits": "mmpareto.models.fusion:AverageLogitsFusion",
        "entropy": "mmpareto.models.fusion:EntropyFusion",
        "entropy_over_batch": "mmpareto.models.fusion:EntropyOverBatchFusion",
        "boosted": "mmpareto.models.fusion:BoostedFusion",
    },
)
BLOCKS = Registry("kind of block", {"mmtm": "mmpareto.models.mmtm:MMTM"})
