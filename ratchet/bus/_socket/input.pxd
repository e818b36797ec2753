from ratchet.bus._core.recipient cimport Recipient
from ratchet.bus._socket cimport descriptor
from ratchet.bus._socket.budget cimport Budget
from ratchet.bus._socket.interfaces cimport Stream
from ratchet.bus._socket.large cimport LargePart
from ratchet.bus._socket.output cimport Output
from ratchet.bus._socket.stall cimport StallWatch
from ratchet.bus._transport.transport cimport Transport
from ratchet.bus._socket.wire cimport Decoder, Sink

cimport cython

cdef class Input(Sink):
    cdef Stream _stream
    cdef Recipient _owner
    cdef Budget _budget
    cdef Output _output
    cdef Transport _transport
    cdef Decoder _decoder
    cdef object _direct
    cdef object _backlog
    cdef public bint reading
    cdef public bint requests_paused
    cdef bint _at_request
    cdef public bint ended
    cdef bint _receiving
    cdef Py_ssize_t _received
    cdef bint _expects_large
    cdef LargePart _large
    cdef double _caught_up
    cdef readonly StallWatch _stall
    cdef object _loop
    cdef object _reader

    cpdef object pause_reading(self)
    cpdef object pause_requests(self)
    @cython.locals(now=cython.double, output=Output)
    cpdef object catch_up(self, double late)
    cpdef object _look_at_turn(self, double now, double late)
    @cython.locals(budget=Budget, size=cython.Py_ssize_t, data=bytes, received=bytes)
    cpdef object _on_readable(self)
    cpdef bint take(self, int kind, int flags, long long id, long arg, bytes body) except -1
    cpdef object read_now(self)
    cpdef object _deliver_data(self, bytes data)
    cpdef object _deliver(self, object messages)
    cpdef object resume(self)
