from ratchet.bus._socket.input cimport Input
from ratchet.bus._socket.interfaces cimport Stream
from ratchet.bus._socket.output cimport Output
from ratchet.bus._transport.transport cimport Transport

cdef class MessageStream(Stream):
    cdef object _hub
    cdef object _owner
    cdef readonly Transport _transport
    cdef object _delivery
    cdef bint _wants_rest
    cdef public object error
    cdef public object left_behind
    cdef public Output output
    cdef public Input input
