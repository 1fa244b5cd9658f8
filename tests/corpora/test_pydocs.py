"""English prose out of Python's own documentation: prose stays, everything else goes, and nothing is executed."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mechicl.corpora import load_corpus, pydocs
from mechicl.corpora.prose import paragraphs
from mechicl.corpora.sources import open_source
from mechicl.errors import InputError

PROSE = "The server keeps a list of the clients that are connected, and it asks each of them in turn."
OTHER = "A reader that waits for more than a minute is told that the other side has gone away."

KEPT = {
    "plain": (PROSE, PROSE),
    "lines": (PROSE.replace(", ", ",\n"), PROSE),
    "spaces": (f"{PROSE}  {OTHER}", f"{PROSE} {OTHER}"),
    "item": (f"* {PROSE}", PROSE),
    "numbered": ("2. " + PROSE.replace("and it", "and\n   it"), PROSE),
    "literal": (PROSE.replace("list", "``list``"), PROSE),
    "role": (PROSE.replace("clients", ":class:`~net.clients`"), PROSE.replace("clients", "net.clients")),
    "link": (PROSE.replace("clients", "`clients <https://example.org>`_"), PROSE),
    "emphasis": (PROSE.replace("each", "*each*").replace("turn", "**turn**"), PROSE),
    "footnote": (PROSE.replace("connected", "connected [2]_"), PROSE),
    "hyphen": (PROSE.replace("a list", "a well-\nordered list"), PROSE.replace("a list", "a well-ordered list")),
    "introduction": (f"{PROSE} An example of it is the following:\n\n    {OTHER}", PROSE),
}
DROPPED = {
    "short": "The server keeps a list of clients.",
    "doctest": ">>> serve(3)\nThe server keeps a list of the clients that are connected, and it asks each in turn.",
    "signature": "serve(host, port) -> the server keeps a list of the clients that are connected, and asks each in turn.",
    "code": "If it is so then x = 3 and it will be that the list of the clients is in the state of the server.",
    "no end": PROSE.rstrip("."),
    "no beginning": PROSE.replace("The", "the", 1),
    "arguments": f"Args:\n    host: {PROSE}\n    port: {OTHER}",
    "fields": f":param host: {PROSE}",
    "options": f"host  {PROSE}\nport  {OTHER}",
    "entries": f"Host -- {PROSE}",
    "columns": "Name of a client    What it is asked for in the end\nThe first of all    The time and the place, and so on.",
    "names": "Valid names: background, border, command, cursor, font, foreground, height, image, justify, relief, text, width.",
    "two sentences in one": PROSE.rstrip(".") + " This is not so for the other side.",
    "art": "+-----------+---------+\n| The server has a list | of the clients that it is to ask in turn. |\n+-----------+---------+",
    "version": "Changed in version 3.4: " + PROSE,
    "control": PROSE.replace("list", "li\x01st"),
    "remark": "XXX " + PROSE,
}


@pytest.fixture
def stdlib(tmp_path: Path) -> Path:
    """A standard library of four modules, one of which would leave a file if it were imported."""
    folder = tmp_path / "lib"
    (folder / "pydoc_data").mkdir(parents=True)
    (folder / "test").mkdir()
    (folder / "site-packages").mkdir()
    trace = tmp_path / "imported"
    (folder / "zeta.py").write_text(
        '"""The last of the modules has a text of its own, and another that is already in a topic."""\n'
        f'open({str(trace)!r}, "w")\nraise SystemExit\n'
        f'class Reader:\n    """Read.\n\n    {OTHER}\n    """\n'
    )
    (folder / "alpha.py").write_text(
        "try:\n    import absent\nexcept ImportError:\n"
        '    def wait():\n        """It is the first of all modules, so that its only paragraph is the first one too."""\n'
        f'def again():\n    """{PROSE}"""\n'
    )
    (folder / "broken.py").write_text(
        f'"""This one would have been read if it were Python of any kind. {PROSE}"""\ndef'
    )
    (folder / "binary.py").write_bytes(b"\xff\x00\xfe")
    (folder / "test" / "test_alpha.py").write_text(f'"""The tests are not read at all. {PROSE}"""')
    (folder / "site-packages" / "other.py").write_text(f'"""Packages are not read at all. {PROSE}"""')
    topics = {
        "one": f"One\n***\n\n   A topic is a text of its own, and the next one is in another document.\n\n   {OTHER}",
        "two": 'The second topic is about what the first one has left out, and it has "quotes" as well.',
    }
    (folder / "pydoc_data" / "topics.py").write_text(f"# Generated\ntopics = {topics!r}\n")
    return folder


@pytest.mark.parametrize("case", KEPT)
def test_prose_is_kept_without_its_markup(case: str) -> None:
    text, plain = KEPT[case]
    assert list(paragraphs(text)) == [plain]


@pytest.mark.parametrize("case", DROPPED)
def test_what_is_no_prose_is_dropped_and_its_neighbours_stay(case: str) -> None:
    assert list(paragraphs(DROPPED[case])) == []
    around = f"{PROSE}\n\n{DROPPED[case]}\n\n{OTHER}"
    assert list(paragraphs(around)) == [PROSE, OTHER]


def test_modules_come_in_order_of_their_paths_and_no_paragraph_twice(stdlib: Path) -> None:
    alpha, one, two, zeta = pydocs.documents(stdlib)
    assert alpha.startswith("It is the first of all modules")
    assert alpha.endswith(f"\n\n{PROSE}")
    assert one.splitlines() == ["A topic is a text of its own, and the next one is in another document.", "", OTHER]
    assert two.startswith("The second topic")
    assert zeta == "The last of the modules has a text of its own, and another that is already in a topic."


def test_sources_are_never_imported(stdlib: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(stdlib)
    pydocs.documents(stdlib)
    assert not (stdlib.parent / "imported").exists()
    with pytest.raises(SystemExit):  # an import would have left its trace
        __import__("zeta")
    assert (stdlib.parent / "imported").exists()


def test_the_digest_is_that_of_the_text(stdlib: Path, tmp_path: Path) -> None:
    texts = pydocs.documents(stdlib)
    copy = tmp_path / "copy"
    shutil.copytree(stdlib, copy)
    assert pydocs.origin(pydocs.documents(copy)) == pydocs.origin(texts)
    other = tmp_path / "other"
    shutil.copytree(stdlib, other)
    (other / "zeta.py").write_text(f'"""{OTHER} One sentence more than there was before."""')
    assert pydocs.origin(pydocs.documents(other)) != pydocs.origin(texts)


def test_missing_sources_are_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "python311.zip"):
        with pytest.raises(InputError, match=r"standard library, and .* has none; give a file or a folder of text"):
            pydocs.documents(folder)


# --- the real standard library


@pytest.fixture(scope="module")
def texts() -> tuple[str, ...]:
    return pydocs.documents()


def test_the_real_text_reads_as_english(texts: tuple[str, ...]) -> None:
    found = [paragraph for text in texts for paragraph in text.split("\n\n")]
    assert len(set(found)) == len(found)
    whole = "\n".join(found)
    assert not re.search(r"^\s*(?:>>>|\.\.\.|def |class \w+\(|@)|>>>|::|->|^\+--|``", whole, re.MULTILINE)
    words = whole.split()
    assert len(words) > 100_000
    assert sum(word.strip("\"'().,;:!?").isalpha() for word in words) > 0.9 * len(words)
    commonest = [word for word, _ in Counter(word.lower() for word in words).most_common(6)]
    assert {"the", "a", "of", "to"} < set(commonest)
    assert all(paragraph[-1] in ".!?\"')”" for paragraph in found)


def test_a_corpus_of_it_has_150_000_tokens_and_remembers_its_text(tokenizer: Any, texts: tuple[str, ...]) -> None:
    corpus = load_corpus(tokenizer, "pydocs", prepend_bos=False)
    assert corpus.n_tokens >= 150_000
    provenance = json.loads(json.dumps(corpus.provenance()))
    assert provenance["source"] == "pydocs"
    assert {name: provenance[name] for name in ("python", "text_digest")} == pydocs.origin(texts)
    with pytest.raises(InputError, match=f"gives {corpus.n_tokens} tokens .* fewer than the 1000000 asked for"):
        load_corpus(tokenizer, "pydocs", prepend_bos=False, tokens=1_000_000)
    documents = open_source("pydocs", column="text", split="train", shuffle_seed=None, words=256)
    assert tuple(documents.read()) == texts


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Any:
    folder = shared / "models" / "tiny-gpt2"
    if not folder.is_dir():
        pytest.skip(f"no tokenizer in {folder}")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_a_tokenizer_that_spells_english_is_warned_about(tokenizer: Any, recwarn: pytest.WarningsRecorder) -> None:
    from mechicl.shipped import load_tokenizer

    load_corpus(tokenizer, "pydocs", prepend_bos=False, tokens=1000)
    assert not [one for one in recwarn if "spells" in str(one.message)]
    with pytest.warns(UserWarning, match=r"spells \d+% of the letters of 'pydocs' one by one"):
        load_corpus(load_tokenizer(), "pydocs", prepend_bos=True, tokens=1000)
