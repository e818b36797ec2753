"""Being told of each line that runs, whichever greenlet runs it.

From Python 3.12 on `sys.monitoring` sees all of a thread's greenlets.  Before,
`sys.settrace` does as well, with two peculiarities: a greenlet is traced if the
one was that it was first switched to from, so the hub has to be told; and a
frame is traced if tracing was on when it began.  So lines are watched first, and
then the bus is opened.

What the function raises that is told of a line comes out of that line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import gevent

OnLine = Callable[[CodeType, int], None]

if sys.version_info >= (3, 12):
    _TOOL = sys.monitoring.DEBUGGER_ID
    _told: list[OnLine] = []

    def watch_lines(on_line: OnLine, is_watched: Callable[[CodeType], bool]) -> None:
        """Call `on_line(code, line)` before each line of the code that is watched.

        It takes the place of an earlier one.
        """
        if not _told:
            sys.monitoring.use_tool_id(_TOOL, "interrupts")

            def tell(code: CodeType, line: int) -> object:
                if not is_watched(code):
                    return sys.monitoring.DISABLE
                _told[-1](code, line)
                return None

            sys.monitoring.register_callback(_TOOL, sys.monitoring.events.LINE, tell)
            sys.monitoring.set_events(_TOOL, sys.monitoring.events.LINE)
        _told[:] = [on_line]

else:

    def watch_lines(on_line: OnLine, is_watched: Callable[[CodeType], bool]) -> None:
        """Call `on_line(code, line)` before each line of the code that is watched.

        It takes the place of an earlier one, and ends when `on_line` raises.
        """

        def trace_lines(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "line":
                on_line(frame.f_code, frame.f_lineno)
            return trace_lines

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            return trace_lines if is_watched(frame.f_code) else None

        sys.settrace(trace)
        gevent.get_hub().loop.run_callback(sys.settrace, trace)
        gevent.sleep(0)
