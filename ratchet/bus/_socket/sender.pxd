from ratchet cimport _native
from ratchet.bus._core.client cimport ClientTransaction, RequestSender
from ratchet.bus._core.deadline cimport inherited_deadline, request_deadline
from ratchet.bus._socket.client_connection cimport ClientConnection
from ratchet.bus._socket.connections cimport Connections
from ratchet.bus._socket.servers cimport Servers

cimport cython

cdef class Sender(RequestSender):
    cdef object _encode
    cdef object _hub
    cdef Py_ssize_t _max_message
    cdef Py_ssize_t _max_parts
    cdef bint _plain
    cdef Servers _servers
    cdef bint _takes_bytes
    cdef public long long tries

    @cython.locals(transaction=ClientTransaction)
    cpdef ClientTransaction send(
        self, object owner, object request, object timeout, object metadata, bint idempotent
    )

    @cython.locals(connection=ClientConnection, transaction=ClientTransaction)
    cpdef ClientTransaction _send(self, object owner, object request, int flags, object deadline, object metadata)

    cdef bint _is_content(self, object request)
    cpdef object _content(self, object parts)

    @cython.locals(connection=ClientConnection, connections=Connections)
    cpdef ClientConnection _find_connection(self, object owner, object deadline)
