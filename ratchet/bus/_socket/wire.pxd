cimport cython

from ratchet.bus._socket cimport heads

cdef class Sink:
    cpdef bint take(self, int kind, int flags, long long id, long arg, bytes body) except -1

cdef class _Messages(Sink):
    cdef list _messages

@cython.final
cdef class Decoder:
    cdef public object error
    cdef public bint partial
    cdef public object refused
    cdef Py_ssize_t _max_message
    cdef Py_ssize_t _max_parts
    cdef object _held
    cdef object _room
    cdef Py_ssize_t _needed
    cdef object _head
    cdef list _parts
    cdef Py_ssize_t _parts_left
    cdef Py_ssize_t _size
    cdef object _length

    cpdef list feed(self, bytes data)
    @cython.locals(
        end=cython.Py_ssize_t, last=cython.Py_ssize_t, start=cython.Py_ssize_t, stop=cython.longlong,
        word=cython.longlong, kind=cython.longlong, flags=cython.longlong, id=cython.longlong, arg=cython.longlong,
        length=cython.longlong, max_message=cython.Py_ssize_t,
    )
    cpdef Py_ssize_t decode_short(self, bytes data, Py_ssize_t position, Sink sink) except -1

@cython.locals(length=cython.Py_ssize_t)
cpdef object frame(int kind, int flags, long long id, long long arg, object parts)
