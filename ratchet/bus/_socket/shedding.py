"""Sending some clients of a server away, while it goes on: there are others for them.

Each is told as by a draining server, and is drained singly: what it has sent is run and
answered, what it sends later is refused.  `connect` opens another connection at once.  Who
decides how many are to go, and where they find a server then, is not known here.
"""

from __future__ import annotations

from operator import attrgetter

from ratchet.bus._socket.admission import Admission


def shed(admission: Admission, count: int) -> int:
    """Send so many clients away, those first that have the fewest unfinished requests.

    Does not block.  Returns how many were told, which are fewer if the others cannot be.
    """
    staying = [connection for connection in admission.connections if connection not in admission.leaving]
    staying.sort(key=attrgetter("share.unfinished"))
    told = 0
    for connection in staying:
        if told == count:
            break
        # What has come is run; the client would have to send it again.
        connection.stream.input.read_now()
        told += not connection.stream.closed and connection.send_away()
    return told
