# Switching by a method look-up, a bound method and gevent's own checks takes four times as
# long as by these.

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

cdef extern from "greenlet.h":
    ctypedef class greenlet.greenlet [object PyGreenlet, check_size ignore]:
        pass
    ctypedef struct PyGreenlet:
        pass
    # A new reference.
    greenlet PyGreenlet_GetCurrent()
    object PyGreenlet_Switch(PyGreenlet* target, PyObject* args, PyObject* kwargs)
    # A new reference; NULL, and no error, if there is none.
    void* PyGreenlet_GetParent(greenlet child)
    bint PyGreenlet_STARTED(greenlet thread)
    bint PyGreenlet_ACTIVE(greenlet thread)
    # Fills in the pointers to these, in each C file by itself.
    void PyGreenlet_Import()

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyThreadState_Get()
    unsigned long long PyThreadState_GetID(PyThreadState*)

cdef inline object load():
    PyGreenlet_Import()

cdef inline greenlet current():
    return PyGreenlet_GetCurrent()

cdef inline bint is_dead(greenlet thread):
    return not PyGreenlet_ACTIVE(thread) and PyGreenlet_STARTED(thread)

cdef inline unsigned long long os_thread():
    return PyThreadState_GetID(PyThreadState_Get())

cdef inline object parent():
    cdef void* found = PyGreenlet_GetParent(PyGreenlet_GetCurrent())
    if found is NULL:
        return None
    result = <object>found
    Py_DECREF(result)
    return result

# Without a reference: one of the caller's would last as long as the caller sleeps.
cdef inline PyGreenlet* target(greenlet thread):
    return <PyGreenlet*>thread

cdef inline object switch(PyGreenlet* target, object value):
    # Most carry nothing but None, and that tuple is made once.
    cdef tuple args = (None,) if value is None else (value,)
    return PyGreenlet_Switch(target, <PyObject*>args, NULL)

cdef inline object switch_to_hub(greenlet hub):
    return PyGreenlet_Switch(<PyGreenlet*>hub, NULL, NULL)
