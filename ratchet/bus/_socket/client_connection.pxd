from ratchet cimport _native
from ratchet._wait cimport WaitQueue
from ratchet.bus._core.outgoing cimport ClientRoute, OutgoingRequest
from ratchet.bus._socket cimport heads
from ratchet.bus._socket.casts cimport Casts
from ratchet.bus._socket.output cimport Output
from ratchet.bus._socket.protocol cimport ClientProtocol
from ratchet.bus._socket.stream cimport MessageStream

cimport cython

cdef class ClientConnection(ClientRoute):
    cdef object _client
    cdef public object decode
    cdef public object plain_sender
    cdef OutgoingRequest _measured
    cdef double _measured_from
    cdef bint _measures
    cdef bint _takes_bodies
    cdef WaitQueue _window
    cdef public Casts casts
    cdef public ClientProtocol protocol
    cdef public MessageStream stream
    cdef public bint retries
    cdef public bint useful

    cpdef bint is_full(self) except -1
    @cython.locals(transaction=OutgoingRequest)
    cpdef object send(self, object owner, object request, int flags, long arg, object content)
    @cython.locals(id=cython.longlong, output=Output, plain=cython.bint)
    cpdef object _write(self, OutgoingRequest transaction, int flags, long arg, object content)
    cpdef object message_received(self, object message)
    @cython.locals(transaction=OutgoingRequest)
    cpdef object short_received(self, int kind, int flags, long long id, long arg, bytes body)
    cpdef object _succeed(self, OutgoingRequest transaction, object response)
