from ratchet.bus._socket cimport memory

cimport cython

cdef class LargePart:
    cdef Py_ssize_t _length
    cdef Py_ssize_t _count
    cdef bytes _memory

    @cython.locals(room=cython.Py_ssize_t, most=cython.Py_ssize_t, count=cython.Py_ssize_t)
    cpdef Py_ssize_t receive(self, object socket) except? -2
    cpdef bytes end(self)
