"""CMU-MOSEI: spoken opinions on many topics, scored from −3 to 3 (Zadeh et al., ACL 2018)."""

from mmpareto.data.data_set import Facts
from mmpareto.data.mmsa import PAGE, FeatureFile, MMSADataSet


class MOSEI(MMSADataSet):
    """22,856 utterances: text (BERT), audio (COVAREP, 74 features) and vision (Facet, 35 features).

    Seven classes where nothing is said: the accuracy published for MMPareto on it is one of seven classes.
    """

    name = "mosei"
    title = "CMU-MOSEI"
    facts = Facts(
        size="22,856 utterances (16,326 for training, 1,871 for validation, 4,659 for testing); "
        "about 8 GB prepared from the unaligned file; preparing takes up to twice the file's size in memory",
        terms="see its owners' page, http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/",
        page=PAGE,
        raw="unaligned_50.pkl or aligned_50.pkl of MMSA's MOSEI/Processed",
    )
    folder_name = "MOSEI"
    published = (
        FeatureFile(
            "unaligned", "unaligned_50.pkl", "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f"
        ),
        FeatureFile("aligned", "aligned_50.pkl", "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791"),
    )
    audio_size, vision_size = 74, 35
    default_classes = 7
