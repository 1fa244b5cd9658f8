"""The explorer as a Jupyter widget: the browser asks, the kernel answers. Needs anywidget (the extra `notebook`)."""

from __future__ import annotations

from typing import Any, Protocol

import anywidget
import traitlets

from mechicl.errors import InputError, NumericalError
from mechicl.explorer.page import ASSETS, script


class Answers(Protocol):
    """What the widget asks of an explorer."""

    def start(self) -> dict[str, Any]: ...
    def answer(self, request: Any) -> Any: ...


class ExplorerWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """Carries the first picture to the browser; everything further is asked for, and answered one by one."""

    _esm = script()
    _css = ASSETS / "explorer.css"
    start = traitlets.Dict().tag(sync=True)


def make_widget(explorer: Answers) -> ExplorerWidget:
    """A widget that is answered by this explorer."""

    def hear(widget: Any, request: Any, buffers: Any) -> None:
        widget.send(reply(explorer, request))

    widget = ExplorerWidget(start=explorer.start())
    widget.on_msg(hear)
    return widget


def reply(explorer: Answers, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request of the browser, or what went wrong, in one sentence."""
    number = request["id"]
    try:
        return {"id": number, "answer": explorer.answer(request)}
    except (InputError, NumericalError) as error:
        return {"id": number, "error": str(error)}
    except Exception as error:  # the browser shows whatever happened; a kernel's log would not be read
        first = (str(error).splitlines() or [""])[0]
        return {"id": number, "error": f"The model raised {type(error).__name__}: {first}"}
