"""The identity of a peer, as an authority (by a certificate) or the kernel vouches for it.

These are only the facts; how they are found out is the business of each kind of bus.
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
        pid: its process ID; 0 if that means nothing here, as for a process outside this
            one's container.  The process may have ended, and another one may have the ID.
        uid: the ID of the user that it ran as when it connected.
        gid: the ID of its group then.
    """

    pid: int
    uid: int
    gid: int


Peer: TypeAlias = PeerCertificate | PeerProcess
