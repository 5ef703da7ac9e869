"""Raw files → prepared files → batches; one file a data set."""

from mmpareto.registry import Registry

DATASETS = Registry(
    "data set",
    {
        "cremad": "mmpareto.data.cremad:CREMAD",
        "synthetic": "mmpareto.data.synthetic:Synthetic",
    },
    aliases={"crema-d": "cremad"},
)
