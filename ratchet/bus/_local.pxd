from ratchet.bus._core.incoming cimport Route
from ratchet.bus._core.outgoing cimport ClientRoute
from ratchet.bus._core.inbox cimport Inbox

cdef class _ToClient(Route):
    pass

cdef class _ToServer(ClientRoute):
    cdef Inbox _inbox
