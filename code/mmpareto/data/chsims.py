"""CH-SIMS: Chinese films and shows, scored from −1 to 1 (Yu et al., ACL 2020)."""

from mmpareto.data.data_set import Facts
from mmpareto.data.mmsa import PAGE, FeatureFile, MMSADataSet


class CHSIMS(MMSADataSet):
    """2,281 utterances: text (BERT), audio (librosa, 33 features) and vision (OpenFace, 709 features).

    Its scores of single modalities (regression_labels_T, _A, _V) are not used: all heads learn the joint one. Five
    classes where nothing is said: the accuracy published for MMPareto on it is one of five classes.
    """

    name = "chsims"
    title = "CH-SIMS"
    facts = Facts(
        size="2,281 utterances (1,368 for training, 456 for validation, 457 for testing); 0.8 GB prepared",
        terms="see its owners' page",
        page=PAGE,
        raw="unaligned_39.pkl of MMSA's SIMS/Processed",
    )
    folder_name = "SIMS"
    published = (
        FeatureFile(
            "unaligned", "unaligned_39.pkl", "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f"
        ),
    )
    audio_size, vision_size = 33, 709
    default_classes = 5
