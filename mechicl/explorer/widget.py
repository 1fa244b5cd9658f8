"""The explorer as a Jupyter widget: the browser asks, the kernel answers. Needs anywidget (the extra `notebook`)."""

from __future__ import annotations

from typing import Any, Protocol

import anywidget
import traitlets

from mechicl.errors import InputError, NumericalError
from mechicl.explorer.page import ASSETS, script


class Answers(Protocol):
    """What the widget needs of an explorer."""

    def start(self) -> dict[str, Any]: ...
    def answer(self, request: Any) -> Any: ...


class ExplorerWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """Sends the first picture to the browser; then answers its requests one by one."""

    _esm = script()
    _css = ASSETS / "explorer.css"
    start = traitlets.Dict().tag(sync=True)


def make_widget(explorer: Answers) -> ExplorerWidget:
    """A widget whose requests this explorer answers."""

    def hear(widget: Any, request: Any, buffers: Any) -> None:
        widget.send(reply(explorer, request))

    widget = ExplorerWidget(start=explorer.start())
    widget.on_msg(hear)
    return widget


def reply(explorer: Answers, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a browser's request, or an error in one sentence."""
    number = request["id"]
    try:
        return {"id": number, "answer": explorer.answer(request)}
    except (InputError, NumericalError) as error:
        return {"id": number, "error": str(error)}
    except Exception as error:  # shown in the browser, because nobody would read a kernel's log
        first = (str(error).splitlines() or [""])[0]
        return {"id": number, "error": f"The model raised {type(error).__name__}: {first}"}
