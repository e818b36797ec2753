"""Who a peer is, as far as somebody vouches for it: an authority by its certificate, or the kernel.

These are only the facts; how they are found out belongs to each kind of bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate of a TLS client, which an authority that the server trusts has signed.

    Attributes:
        subject: its subject, as pairs of a name and a value, such as
            `("commonName", "billing")`.
        names: the client's other names, as pairs of a kind and a name, such as
            `("DNS", "billing.example.org")`, `("email", "a@example.org")` or `("URI", "...")`.
    """

    subject: tuple[tuple[str, str], ...]
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PeerProcess:
    """The process that has connected to a Unix socket, as the kernel knows it.

    Attributes:
        pid: its number; 0 if that means nothing here, as for a process outside of this
            one's container.  The process may have ended, and another one have the number.
        uid: the number of the user that it ran as when it connected.
        gid: that of the user's group.
    """

    pid: int
    uid: int
    gid: int


Peer: TypeAlias = PeerCertificate | PeerProcess
