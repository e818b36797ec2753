cdef class Recipient:
    cpdef object message_received(self, object message)
    cpdef object short_received(self, int kind, int flags, long long id, long arg, bytes body)
