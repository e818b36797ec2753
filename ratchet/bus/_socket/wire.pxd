cimport cython

cdef class Decoder:
    cdef public object error
    cdef public bint partial
    cdef public object refused
    cdef Py_ssize_t _max_message
    cdef Py_ssize_t _max_parts
    cdef object _held
    cdef Py_ssize_t _needed
    cdef object _head
    cdef list _parts
    cdef Py_ssize_t _parts_left
    cdef Py_ssize_t _size
    cdef object _length

    cpdef list feed(self, bytes data)
