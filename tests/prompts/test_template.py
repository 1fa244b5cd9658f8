"""What a template may be, and what the refusal of another says."""

from __future__ import annotations

import pytest

from mechicl.errors import InputError
from mechicl.prompts import Template


def test_a_template_is_what_stands_around_text_and_label() -> None:
    assert Template.parse("Q: {text}\nA:{label}.") == Template("Q: ", "\nA:", ".", "\n")
    assert Template.parse("{text} {{x}} ={label}", " | ") == Template("", " {x} =", "", " | ")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("Review: {text}", r"has the fields \['text'\]; it needs"),
        ("{label} {text}", "it needs"),
        ("{text} {text}:{label}", "it needs"),
        ("{text!r}:{label}", "text!r"),
        ("{text:>5}:{label}", "text:>5"),
        ("{review}:{label}", "review"),
        ("{text}{label}", "nothing between"),
        ("{text}\nAnswer: {label}", "ends in a space before {label}"),
        ("{text}}: {label}", "cannot be read"),
    ],
)
def test_other_forms_are_refused(form: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Template.parse(form)
