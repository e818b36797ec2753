cimport cython

from ratchet cimport _greenlets
from ratchet._greenlets cimport greenlet

cdef class Dispatcher:
    cdef Wait next_wait(self)

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
    @cython.locals(line=Line, following=Wait)
    cpdef object sleep(self, object call, object subject)
    cpdef object switch(self, object value=*)

cdef class Line:
    cdef list waits
    cdef Py_ssize_t position

    @cython.locals(wait=Wait)
    cdef Wait following(self, object hub)

cdef Line _running
cdef Wait _sleeping
cdef bint hubs_stay
cpdef object current_hub()
cdef greenlet _hub_here
cdef unsigned long long _os_thread_of_hub
@cython.locals(thread="unsigned long long")
cpdef object hub_here()
cpdef greenlet current_thread()
@cython.locals(line=Line, wait=Wait)
cpdef object run_line(list waits)
cdef Dispatcher _asked
cdef object _asked_hub
@cython.locals(dispatcher=Dispatcher)
cdef Wait _next_of(object hub)
@cython.locals(last=Wait)
cdef object _enter(Wait wait)
@cython.locals(before=Wait, behind=Wait)
cdef object _leave(Wait wait)
@cython.locals(wait=Wait)
cpdef Wait wait_of(object thread)
