from ratchet.bus._socket cimport descriptor, heads, wire
from ratchet.bus._socket.interfaces cimport Stream
from ratchet.bus._socket.outbox cimport Outbox
from ratchet.bus._socket.stall cimport StallWatch
from ratchet.bus._transport.transport cimport Transport
from ratchet.bus._socket.writers cimport Writers

cimport cython

@cython.final
cdef class Output:
    cdef Stream _stream
    cdef object _owner
    cdef Transport _transport
    cdef object _direct
    cdef object _loop
    cdef public bint logs_frames
    cdef public Outbox outbox
    cdef public Writers writers
    cdef long long _turn
    cdef public bint flush_scheduled
    cdef bint _keeps_records
    cdef bint _tells_answers
    cdef bint _sending
    cdef object _acknowledge
    cdef StallWatch _stall
    cdef object _writer

    @cython.locals(number=cython.Py_ssize_t, turn=cython.longlong, busy=cython.bint)
    cpdef Py_ssize_t write(self, object frame) except -1
    @cython.locals(number=cython.Py_ssize_t, outbox=Outbox, turn=cython.longlong)
    cpdef Py_ssize_t write_short(self, int kind, int flags, long long id, long long arg, object body) except -1
    @cython.locals(outbox=Outbox)
    cpdef object _send_at_once(self, Py_ssize_t number, bytes frame)
    cpdef object _schedule_flush(self)
    cpdef object send_written(self)
    @cython.locals(number=cython.Py_ssize_t, outbox=Outbox)
    cpdef Py_ssize_t write_later(self, object frame) except -1
    @cython.locals(number=cython.Py_ssize_t, outbox=Outbox)
    cpdef Py_ssize_t write_short_later(
        self, int kind, int flags, long long id, long long arg, object body
    ) except -1
    @cython.locals(count=cython.Py_ssize_t, transport=Transport)
    cpdef Py_ssize_t _send(self, object data) except -1
    cpdef object flush(self)
    cpdef object _send_outbox(self)
    cpdef object peer_moved(self)
