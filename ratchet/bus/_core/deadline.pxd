cimport cython

from ratchet cimport _native

cdef class Scope:
    cdef public object deadline
    cdef public Scope outer
    cdef public bint left

@cython.locals(scope=Scope)
cpdef object inherited_deadline()
cpdef object deadline_after(object timeout)
cpdef object seconds_until(object deadline)
cpdef object request_deadline(object timeout)
cpdef object time_left(object deadline)
cpdef Scope enter_scope(object deadline)
cpdef object leave_scope(Scope scope)
