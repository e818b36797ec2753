from ratchet.bus._core.numbered cimport Numbered

cimport cython

cdef int _FEWEST
cdef list _NO_SLOTS
cdef dict _NO_OTHERS

@cython.final
cdef class Table:
    cdef Py_ssize_t _first_size
    cdef Py_ssize_t _in_slots
    cdef dict _others
    cdef list _slots

    cpdef list values(self)
    @cython.locals(found=Numbered)
    cpdef object get(self, long long id)
    @cython.locals(found=Numbered, slot=cython.Py_ssize_t)
    cpdef object setdefault(self, long long id, Numbered request)
    @cython.locals(request=Numbered, slots=list)
    cpdef object _double(self)
    @cython.locals(found=Numbered, slot=cython.Py_ssize_t)
    cpdef object pop(self, long long id, object default)
    cpdef object clear(self)
