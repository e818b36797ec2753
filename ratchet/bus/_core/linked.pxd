from ratchet.bus._core.numbered cimport Numbered

cimport cython

cdef class LinkedLine

cdef class Linked(Numbered):
    cdef Linked _before
    cdef Linked _behind
    cdef LinkedLine _line

@cython.final
cdef class LinkedLine:
    cdef readonly Linked first
    cdef Linked _last
    cdef Py_ssize_t _length

    @cython.locals(item=Linked)
    cdef list _all(self)
    @cython.locals(last=Linked)
    cdef object _enter(self, Linked item)
    @cython.locals(before=Linked, behind=Linked)
    cpdef object pop(self, Linked item, object default)
    cpdef object clear(self)
