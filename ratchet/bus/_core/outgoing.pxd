from ratchet cimport _native
from ratchet._run_queue cimport RunQueue
from ratchet._wait cimport suspend
from ratchet.bus._core.numbered cimport Numbered
from ratchet.bus._core.recipient cimport Recipient
from ratchet.bus._core.stats cimport Counters

cdef class OutgoingRequest

cdef class ClientRoute(Recipient):
    cdef public object hub
    cdef public object run_callback
    cdef public RunQueue run_queue
    cdef public Counters counters
    cdef public object server_address

    cpdef object withdraw(self, OutgoingRequest transaction)
    cpdef object ask_for_last_word(self, OutgoingRequest transaction)
    cpdef object retry(self, OutgoingRequest transaction, object error, object moves)
    cpdef object forget(self, OutgoingRequest transaction)

cdef class OutgoingRequest(Numbered):
    cdef list _more_waits
    cdef object _owner
    cdef double _seconds
    cdef object _timer
    cdef _native.Wait _wait
    cdef public int attempts
    cdef public object content
    cdef public object deadline
    cdef public object decode
    cdef public bint doubtful
    cdef public object error
    cdef public int flags
    cdef public long long frame_number
    cdef public object incoming
    cdef public object request
    cdef public ClientRoute route
    cdef public object state
    cdef public object value

    cpdef object begin(self, object owner, ClientRoute route, object request, object decode)
    cpdef object keep_to_send_again(self, object content, int flags)
    cpdef object load(self)
    cpdef object result(self, object timeout)
    cpdef object wait(self, object timeout)
    cdef object _take_back(self, _native.Wait wait)
    cpdef object end_at(self, double deadline)
    cpdef object note_timeout(self, double timeout)
    cpdef object fail(self, object error, object moves=*)
    cpdef object end_failed(self, object error)
    cpdef object succeed(self, object value)
    cdef object _end(self, object event, object after_waiting)
