"""Probes read a forward pass; one file each."""

from mechicl.probes.attention_map import AttentionMap
from mechicl.probes.enrichment import Enrichment, HeadEnrichment
from mechicl.probes.head_saliency import HeadSaliency
from mechicl.probes.induction import HeadScores
from mechicl.probes.label_attention import LabelAttention
from mechicl.probes.label_lens import LabelLens
from mechicl.probes.label_words import LabelMass, LabelNorms
from mechicl.probes.last_residual import LastResidual
from mechicl.probes.lens_map import LensMap
from mechicl.probes.lens_tokens import LensTokens
from mechicl.probes.local_attention import LocalAttention
from mechicl.probes.logit_lens import LogitLens
from mechicl.probes.look_back import LookBack
from mechicl.probes.norms import Norms
from mechicl.probes.saliency import SaliencyFlow, SaliencyMap
from mechicl.probes.sub_joiner import SubJoiner
from mechicl.probes.text_loss import TextLoss
from mechicl.probes.top_tokens import TopTokens
from mechicl.probes.tuned_lens import TunedLens
from mechicl.probes.words import LossAt, WordAttention

__all__ = [
    "AttentionMap", "Enrichment", "HeadEnrichment", "HeadSaliency", "HeadScores", "LabelAttention", "LabelLens",
    "LabelMass", "LabelNorms", "LastResidual", "LensMap", "LensTokens", "LocalAttention", "LogitLens", "LookBack",
    "LossAt", "Norms", "SaliencyFlow", "SaliencyMap", "SubJoiner", "TextLoss", "TopTokens", "TunedLens",
    "WordAttention",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
