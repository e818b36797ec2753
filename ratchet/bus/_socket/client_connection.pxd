from ratchet.bus._core.outgoing cimport ClientRoute, OutgoingRequest
from ratchet.bus._socket.casts cimport Casts
from ratchet.bus._socket.protocol cimport ClientProtocol
from ratchet.bus._socket.stream cimport MessageStream

cdef class ClientConnection(ClientRoute):
    cdef object _client
    cdef object _decode
    cdef object _plain
    cdef object _window
    cdef public Casts casts
    cdef public ClientProtocol protocol
    cdef public MessageStream stream
    cdef public bint useful

    cpdef object send(self, object owner, object request, int flags, object arg, object parts)
    cpdef object message_received(self, object message)
