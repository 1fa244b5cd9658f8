"""Tasks as people, and nobody, would write them: names, classes, label words, templates and texts in every script."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

ODD = (
    "مرحبا بالعالم", "你好，世界", "नमस्ते दुनिया", "שלום", "Ωμέγα", "👩‍👩‍👧 🙂", "e\u0301\u0323 n\u0303o", "<|endoftext|>", "<|im_start|>",
    "[red]bold[/red]", "{text} {label}", "a, b; c", '"', "he said \"no\"", "'", "\ttab", "two\nlines", "a\r\nb\rc",
    "a\u2028b\x85c", "\ufeffmark", "\0", " ", "", "  x  ", "NaN", "null", "007", "1e5", "2020-01-01", "True", "-1", "\\n \\u0041",
    "../../etc/passwd", "%s %d $HOME `ls`", "<b>&amp;</b>", "x" * 40,
)  # fmt: skip
HALF, LONG = "half \ud83d", "film " * 400
_PLAIN = st.text(st.characters(codec="utf-8"), max_size=8)
texts = st.one_of(st.sampled_from(ODD), _PLAIN, st.tuples(_PLAIN, st.sampled_from(ODD)).map(" ".join))
_rarely_half = st.integers(0, 40).flatmap(lambda n: st.just(HALF) if n == 40 else texts)
_NAMES = (
    "0", "1", "2", "True", "False", "-1", "1.0", "01", "yes", "no", "Yes", "null", "NaN", "", " padded ", "[b]", "a,b",
    "é", "e\u0301", "عربي", "正面", "two\nlines", "🙂",
)  # fmt: skip
_GOOD_WORDS = ((" A", " B", " C", " D"), (" Negative", " Positive", " World", " Happy"), ("A", "Bé", "C🙂", "Д中"))
_TEMPLATES = (
    "{text}", "{label} {text}", "{text}{label}", "{text}: {label}", "{", "{text}\n{label}{label}", "{text!r}\n:{label}",
    "{text:>9}:{label}", "", "{}:{}", "{text}\n{other}:{label}", HALF + "{text}:{label}",
)  # fmt: skip


@dataclass
class Case:
    """A task, its data, and what is asked of it."""

    name: str | None
    before: str
    between: str
    after: str
    separator: str
    words: dict[str, str]
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    columns: dict[str, str]
    raw_template: str | None = None
    score: str = "first"
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str:
        """The form as a task has it."""
        before, between, after = (part.replace("{", "{{").replace("}", "}}") for part in
                                  (self.before, self.between, self.after))  # fmt: skip
        return f"{before}{{text}}{between}{{label}}{after}" if self.raw_template is None else self.raw_template

    def row(self, text: Any, label: Any) -> dict[str, Any]:
        """A row with these columns."""
        return {self.columns.get("text", "text"): text, self.columns.get("label", "label"): label}


def _as_data_have_it(draw: Any, name: str) -> Any:
    """The label of a class by its name, or by the value that Python would write so."""
    native = {"0": 0, "1": 1, "2": 2, "-1": -1, "True": True, "False": False, "1.0": 1.0}
    return native[name] if name in native and draw(st.booleans()) else name


@st.composite
def tasks(draw: Any) -> Case:
    """Most of them sound; what is wrong with the others is one thing or several."""
    rarely = st.sampled_from([False] * 15 + [True])
    names = draw(st.lists(st.sampled_from(_NAMES) | _PLAIN, min_size=2, max_size=4, unique=True))
    good = draw(st.sampled_from(_GOOD_WORDS))
    odd = st.lists(
        st.one_of(_rarely_half, st.sampled_from([" A", " good", " goods", "a", "", "é", "ß", "\nA", "\nB"])),
        min_size=len(names),
        max_size=len(names),
    )
    words = draw(odd if draw(rarely) else st.just(list(good[: len(names)])))
    between = draw(_rarely_half) + draw(st.sampled_from(["\nA:", "\n答", ":", "\n\n", "<|endoftext|>"]))
    columns = draw(
        st.sampled_from([{}] * 4 + [{"text": "body"}, {"text": "t[0]", "label": "é, è"}, {"label": "text "}])
    )
    case = Case(
        name=draw(st.one_of(st.none(), _rarely_half)), before=draw(st.one_of(st.just(""), _rarely_half)), between=between,
        after=draw(st.one_of(st.just(""), texts)), separator=draw(st.sampled_from(["\n", "\n\n", "", " ", "<|endoftext|>", "\u2028"])),
        words=dict(zip(names, words, strict=True)), train=[], test=[], columns=columns,
        raw_template=draw(st.sampled_from(_TEMPLATES)) if draw(rarely) else None,
        score=draw(st.sampled_from(["first"] * 4 + ["sequence"])),
        asked={
            "shots": draw(st.sampled_from([1, 1, 1, 2])), "samples": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 99)),
            "too_long": draw(st.sampled_from(["drop", "shorter", "refuse"])),
        },
    )  # fmt: skip
    for rows in (case.train, case.test):
        few, long = draw(rarely), draw(rarely)
        labels = [name for name in names for _ in range(1 if few else 2 * case.asked["shots"])]
        labels += draw(st.lists(st.sampled_from([*names, None, ""]), max_size=2))
        rows += [case.row(draw(st.just(LONG) | texts if long else texts), label if label is None else _as_data_have_it(draw, label))
                 for label in draw(st.permutations(labels))]  # fmt: skip
    return case
