from ratchet.bus._core.numbered cimport Numbered

cimport cython

cdef class LinkedLine

cdef class Linked(Numbered):
    cdef Linked _before
    cdef Linked _before_in_flow
    cdef Linked _behind
    cdef Linked _behind_in_flow
    cdef LinkedLine _flow_line
    cdef LinkedLine _line

@cython.final
cdef class LinkedLine:
    cdef readonly Linked first
    cdef readonly Linked last
    cdef Py_ssize_t _length
    cdef bint _of_flow

    @cython.locals(item=Linked)
    cdef list _all(self)
    @cython.locals(line=LinkedLine)
    cpdef object enter(self, Linked item)
    cpdef object pop(self, Linked item, object default)
    cdef LinkedLine _line_of(self, Linked item)
    cdef object _link(self, Linked before, Linked behind)
    cpdef object clear(self)
