from ratchet._wait cimport WaitQueue
from ratchet.bus._core cimport lines
from ratchet.bus._core.linked cimport LinkedLine
from ratchet.bus._core.load cimport Load
from ratchet.bus._core.stats cimport Counters

cdef class IncomingRequests:
    cdef public object hub
    cdef public object run_callback
    cdef public Counters counters
    cdef public Load load
    cdef public object decode
    cdef public object encode
    cdef public LinkedLine in_flight
    cdef public dict to_interrupt
    cdef public WaitQueue drain_waiters
    cdef object _dropped

    cpdef object wake_drain(self)
