"""Encoders, fusion, heads."""

from mmpareto.registry import Registry

ENCODERS = Registry("encoder", {"resnet18": "mmpareto.models.resnet:ResNet18"})
FUSIONS = Registry("fusion", {"concat": "mmpareto.models.fusion:ConcatFusion"})
