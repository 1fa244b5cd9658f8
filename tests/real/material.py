"""Sentences of our own: reviews to ask about, and two pieces of running text of different lengths."""

from __future__ import annotations

NEGATIVE, POSITIVE = (
    (
        "The soup arrived cold twice, and nobody at the counter seemed to care.",
        "After three weeks the zip on this jacket broke and the shop refused a refund.",
        "I walked out of the play at the interval because the jokes were older than the seats.",
        "Our room smelled of paint, the lift was out of order and breakfast ended at eight.",
        "A long and muddled film that never decides whom it is about.",
        "The headphones hiss whenever the train passes a bridge, and the left one fell silent in June.",
        "He reads his own poems as if he were checking a parking ticket.",
        "They charged us twice for a tour that stopped at two gift shops.",
        "The second album repeats the first one, only slower and with more echo.",
        "Half the pages were printed upside down and the index is missing.",
        "The battery died during the first hike, so the map on it was of no use.",
        "It took four phone calls to learn that my parcel had never left the warehouse.",
    ),
    (
        "The baker remembered my order from last year and put an extra roll into the bag.",
        "This kettle is quiet, boils in two minutes and has not leaked once.",
        "A warm and clever story in which even the villain gets a good line.",
        "We stayed two nights longer than planned because the garden was so peaceful.",
        "The children laughed from the first scene to the last, and so did I.",
        "My knees stopped hurting after a week in these running shoes.",
        "She plays the slow movement with such calm that the hall forgot to cough.",
        "The repair took an hour, cost less than I feared and came with a cup of tea.",
        "A cookbook that finally explains why the dough behaves as it does.",
        "The guide knew every bird by its song and waited for the slowest of us.",
        "I bought one lamp for my desk and came back the next day for three more.",
        "Crisp pictures, simple menus and a strap that does not cut into the neck.",
    ),
)
N_TRAIN = 7
"""Of each class's sentences the first are demonstrations and training items, the others are asked about."""


def rows(part: slice) -> list[dict[str, str]]:
    """A part of both classes' sentences, as a task reads them."""
    classes = {"negative": NEGATIVE, "positive": POSITIVE}
    return [{"text": text, "label": name} for name, texts in classes.items() for text in texts[part]]


TEXTS = (
    "The ferry leaves the north pier at six in the morning, when the harbour is still grey and the gulls have the "
    "place to themselves. In summer it carries cyclists, bread for the two island shops and, on Tuesdays, a vet who "
    "looks after the goats. In winter there are days on which nobody boards at all, and the captain crosses the "
    "strait anyway, because the timetable says so and because his sister, who keeps the lighthouse, likes to see the "
    "lamp on his mast go by. The crossing takes forty minutes if the tide is kind. When it is not, the passengers sit "
    "in the small saloon, hold on to their cups and listen to the engine.",
    "A compiler reads a program in several passes. The first pass splits the text into tokens, the second builds a "
    "tree from them, and the third checks that every name in the tree has been declared. Only then does the compiler "
    "choose instructions, and it may reorder them as long as nobody can tell the difference.",
)
