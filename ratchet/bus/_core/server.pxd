cimport cython

from ratchet cimport _native
from ratchet.bus._core.handle cimport receive_many
from ratchet.bus._core.intake cimport Intake
from ratchet.bus._core.side cimport BusFields

@cython.locals(intake=Intake)
cpdef object _receive(BusFields side, object timeout)
