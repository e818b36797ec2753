from ratchet.bus._core.incoming cimport IncomingRequest
from ratchet.bus._socket.admission cimport Admission
from ratchet.bus._socket.budget cimport Share

cimport cython

@cython.final
cdef class Gate:
    cdef Admission _admission
    cdef Share _share
    cdef Py_ssize_t _max_in_flight
    cdef public dict parked
    cdef public dict held_back
    cdef public Py_ssize_t held_back_size

    @cython.locals(let_in=cython.Py_ssize_t)
    cpdef bint has_room(self) except -1
    cpdef object hold_back(self, IncomingRequest request)
    cpdef object drop(self, IncomingRequest request)
