"""Raw files → prepared files → batches; one file a data set.

What data sets share is in four rooms, none of which knows any of them: `raw` (reading what owners distribute),
`generated` (pictures and sounds that are computed), `preparing` (raw files → a prepared folder) and `prepared`
(a prepared folder → batches). The way to read it: `data_set.py` (what a data set has to say) → `cremad.py` (one that
says it) → `preparing/preparation.py` and `prepared/samples.py` (what is made of it).
"""

from mmpareto.registry import Registry

DATASETS = Registry(
    "data set",
    {
        "cremad": "mmpareto.data.cremad:CREMAD",
        "kinetics_sounds": "mmpareto.data.kinetics_sounds:KineticsSounds",
        "cgmnist": "mmpareto.data.cgmnist:CGMNIST",
        "modelnet40": "mmpareto.data.modelnet40:ModelNet40",
        "mosi": "mmpareto.data.mmsa:MOSI",
        "mosei": "mmpareto.data.mmsa:MOSEI",
        "chsims": "mmpareto.data.mmsa:CHSIMS",
        "vggsound": "mmpareto.data.vggsound:VGGSound",
        "ave": "mmpareto.data.ave:AVE",
        "ucf101": "mmpareto.data.ucf101:UCF101",
        "synthetic": "mmpareto.data.synthetic:Synthetic",
    },
    aliases={"kineticsound": "kinetics_sounds", "ks": "kinetics_sounds", "cmu-mosi": "mosi", "cmu-mosei": "mosei"},
)
