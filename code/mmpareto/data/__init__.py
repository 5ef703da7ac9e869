"""Data sets: raw files → prepared folder → batches; one file per data set, or per family that the same code reads.

Four subpackages are independent of any data set: `raw` reads the files that owners distribute, `generated` computes
images and sounds, `preparation` turns raw files into a prepared folder, and `loading` turns a prepared folder into
batches. Reading order: `dataset_builder.py` (interface of a data set) → `cremad.py` (an example) →
`preparation/sample_preparation.py` and `loading/samples.py`.
"""

from mmpareto.registry import Registry

DATASETS = Registry(
    "data set",
    {
        "cremad": "mmpareto.data.cremad:CREMAD",
        "kinetics_sounds": "mmpareto.data.kinetics_sounds:KineticsSounds",
        "cgmnist": "mmpareto.data.cgmnist:CGMNIST",
        "avdigits": "mmpareto.data.avdigits:AVDigits",
        "multimnist": "mmpareto.data.multimnist:MultiMNIST",
        "modelnet40": "mmpareto.data.modelnet40:ModelNet40",
        "mosi": "mmpareto.data.mmsa:MOSI",
        "mosei": "mmpareto.data.mmsa:MOSEI",
        "chsims": "mmpareto.data.mmsa:CHSIMS",
        "vggsound": "mmpareto.data.vggsound:VGGSound",
        "ave": "mmpareto.data.ave:AVE",
        "ucf101": "mmpareto.data.ucf101:UCF101",
        "synthetic": "mmpareto.data.synthetic:Synthetic",
        "modalities": "mmpareto.data.modalities:GaussianModalities",
        "folder": "mmpareto.data.folder:ClipFolder",
        "features": "mmpareto.data.features:FeatureArrays",
    },
    aliases={"kineticsound": "kinetics_sounds", "ks": "kinetics_sounds", "cmu-mosi": "mosi", "cmu-mosei": "mosei"},
)
