from ratchet cimport _native
from ratchet._wait cimport suspend
from ratchet._run_queue cimport RunQueue
from ratchet.bus._core.recipient cimport Recipient

cdef class OutgoingRequest

cdef class ClientRoute(Recipient):
    cdef public object hub
    cdef public object run_callback
    cdef public RunQueue run_queue
    cdef public object counters
    cdef public object server_address

    cpdef object withdraw(self, OutgoingRequest transaction)
    cpdef object ask_for_last_word(self, OutgoingRequest transaction)
    cpdef object forget(self, OutgoingRequest transaction)

cdef class OutgoingRequest:
    cdef public object _owner
    cdef public object _seconds
    cdef public object _timer
    cdef public list _waits
    cdef public object decode
    cdef public object error
    cdef public object frame_number
    cdef public object id
    cdef public object incoming
    cdef public object request
    cdef public ClientRoute route
    cdef public object state
    cdef public object value

    cpdef object begin(self, object owner, ClientRoute route, object request, object decode)
    cpdef object load(self)
    cpdef object result(self, object timeout)
    cpdef object wait(self, object timeout)
    cpdef object end_at(self, object deadline)
    cpdef object note_timeout(self, object timeout)
    cpdef object fail(self, object error)
    cpdef object succeed(self, object value)
    cpdef object _end(self, object event)
