"""CMU-MOSI: spoken opinions from video blogs, scored from −3 to 3 (Zadeh et al., IEEE Intelligent Systems 2016)."""

from mmpareto.data.data_set import Facts
from mmpareto.data.mmsa import PAGE, FeatureFile, MMSADataSet


class MOSI(MMSADataSet):
    """2,199 utterances of 89 speakers: text (BERT), audio (5 features a step) and vision (20).

    Seven classes where nothing is said: the accuracy published for MMPareto on it is one of seven classes.
    """

    name = "mosi"
    title = "CMU-MOSI"
    facts = Facts(
        size="2,199 utterances (1,284 for training, 229 for validation, 686 for testing); 0.5 GB prepared",
        terms="see its owners' page, http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/",
        page=PAGE,
        raw="unaligned_50.pkl or aligned_50.pkl of MMSA's MOSI/Processed",
    )
    folder_name = "MOSI"
    published = (
        FeatureFile(
            "unaligned", "unaligned_50.pkl", "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524"
        ),
        FeatureFile("aligned", "aligned_50.pkl", "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9"),
    )
    audio_size, vision_size = 5, 20
    default_classes = 7
