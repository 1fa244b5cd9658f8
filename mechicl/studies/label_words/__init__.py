"""*Label Words are Anchors* (Wang et al., EMNLP 2023); an experiment a file."""

from mechicl.studies.label_words.anchor_kinds import AnchorKinds, anchor_kinds
from mechicl.studies.label_words.anchor_sweep import AnchorSweep, anchor_sweep
from mechicl.studies.label_words.compression import Compression, compression
from mechicl.studies.label_words.compression_speed import CompressionSpeed, compression_speed
from mechicl.studies.label_words.deep_layers import DeepLayers, deep_layers
from mechicl.studies.label_words.error_diagnosis import ErrorDiagnosis, error_diagnosis
from mechicl.studies.label_words.information_flow import InformationFlow, information_flow
from mechicl.studies.label_words.isolation import Isolation, isolation, isolation_examples
from mechicl.studies.label_words.reweighting import Reweighting, reweighting
from mechicl.studies.label_words.saliency_map import saliency_figure, saliency_map

__all__ = [
    "AnchorKinds",
    "AnchorSweep",
    "Compression",
    "CompressionSpeed",
    "DeepLayers",
    "ErrorDiagnosis",
    "InformationFlow",
    "Isolation",
    "Reweighting",
    "anchor_kinds",
    "anchor_sweep",
    "compression",
    "compression_speed",
    "deep_layers",
    "error_diagnosis",
    "information_flow",
    "isolation",
    "isolation_examples",
    "reweighting",
    "saliency_figure",
    "saliency_map",
]
