"""*Label Words are Anchors* (Wang et al., EMNLP 2023); an experiment a file."""

from mechicl.studies.label_words.compression import Compression, compression
from mechicl.studies.label_words.deep_layers import DeepLayers, deep_layers
from mechicl.studies.label_words.information_flow import InformationFlow, information_flow, saliency_map
from mechicl.studies.label_words.isolation import Isolation, isolation

__all__ = [
    "Compression",
    "DeepLayers",
    "InformationFlow",
    "Isolation",
    "compression",
    "deep_layers",
    "information_flow",
    "isolation",
    "saliency_map",
]
