"""tiny-icl: a small transformer that learns in context, and the language it speaks.

You need no GPU, no network and no data to see both papers' phenomena: the weights are in this package, and the language
is generated. `README.md` next to this file reports the model's accuracy; `benchmarks/tiny_icl`, which is not part of
the package, trained it.
"""

from mechicl.shipped.grammar import running_text
from mechicl.shipped.lexicon import LABEL_WORDS, TEMPLATES, TOPICS
from mechicl.shipped.model import load_tiny_icl, load_tokenizer
from mechicl.shipped.texts import draw_mapping, examples, topic_name

__all__ = [
    "LABEL_WORDS",
    "TEMPLATES",
    "TOPICS",
    "draw_mapping",
    "examples",
    "load_tiny_icl",
    "load_tokenizer",
    "running_text",
    "topic_name",
]
