# Switching by a method look-up, a bound method and gevent's own checks takes four times as
# long as by these.

from cpython.object cimport PyObject

cdef extern from "greenlet.h":
    ctypedef class greenlet.greenlet [object PyGreenlet, check_size ignore]:
        pass
    # A new reference.
    greenlet PyGreenlet_GetCurrent()
    object PyGreenlet_Switch(greenlet target, PyObject* args, PyObject* kwargs)
    # Fills in the pointers to these, in each C file by itself.
    void PyGreenlet_Import()

cdef inline object load():
    PyGreenlet_Import()

cdef inline greenlet current():
    return PyGreenlet_GetCurrent()

cdef inline object switch(greenlet target, object value):
    cdef tuple args = (value,)
    return PyGreenlet_Switch(target, <PyObject*>args, NULL)

cdef inline object switch_to_hub(greenlet hub):
    return PyGreenlet_Switch(hub, NULL, NULL)
