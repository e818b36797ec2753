from ratchet cimport _greenlets
from ratchet._greenlets cimport greenlet

cdef class Wait:
    cdef readonly greenlet hub
    cdef readonly greenlet greenlet
    cdef readonly object call
    cdef readonly object subject
    cdef bint _is_woken
    cdef object _value
    cdef Wait _previous
    cdef Wait _next

    cpdef object begin(self)
    cpdef object clear(self)
    cpdef object sleep(self, object call, object subject)
    cpdef object switch(self, object value=*)

cdef class Line:
    cdef list waits
    cdef Py_ssize_t position

    cdef Wait following(self, object hub)

cdef Line _running
cdef Wait _sleeping
cdef bint hubs_stay
cpdef object current_hub()
cpdef object run_line(list waits)
cdef object _enter(Wait wait)
cdef object _leave(Wait wait)
cpdef Wait wait_of(object thread)
