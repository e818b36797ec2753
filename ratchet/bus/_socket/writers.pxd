from ratchet.bus._socket.interfaces cimport Stream
from ratchet.bus._socket.outbox cimport Outbox

cimport cython

@cython.final
cdef class Writers:
    cdef Stream _stream
    cdef object _owner
    cdef Outbox _outbox
    cdef object _loop
    cdef public bint above_high_water
    cdef public Py_ssize_t high_water
    cdef public object line
    cdef public bint wants_resume

    cpdef object pause(self)
    cpdef bint wait_for_room(self, object call, object timeout) except -1
    cpdef object look_for_room(self)
    cpdef object let_go_on(self)
