from ratchet.bus._core.watch cimport Watch

cdef class Budget(Watch)

cdef class Share:
    cdef Budget _budget
    cdef public Py_ssize_t begun_size
    cdef public object holder
    cdef public Py_ssize_t size
    cdef public Py_ssize_t unfinished
    cdef public Py_ssize_t unsent

    cpdef bint has_room(self, Py_ssize_t more=*) except -1
    cpdef object note_unsent(self, Py_ssize_t size)

cdef class Budget(Watch):
    cdef Py_ssize_t _most
    cdef double _timeout
    cdef public Py_ssize_t taken
    cdef Py_ssize_t _unsent
    cdef public double soft_limit
    cdef dict _begun
    cdef public dict waiting
    cdef double _look_at
    cdef Share _overdrawn

    cpdef object count_unsent(self, Py_ssize_t more)
    cpdef bint has_room(self, Py_ssize_t held, Py_ssize_t more=*) except -1
    cpdef object give_back(self, Py_ssize_t size)
