from cpython.object cimport PyObject

from ratchet._sleep cimport Wait

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject*, PyObject*, PyObject*)

# gevent's Waiter says nothing of what it is for, and each call of it is one by name.
cdef inline Wait new_wait():
    return Wait()

cdef inline object sleep(Wait wait, object call, object subject):
    return wait.sleep(call, subject)

# A call of `__new__` by name takes four times as long.
cdef inline object new(type kind):
    cdef tuple arguments = ()
    return (<PyTypeObject*>kind).tp_new(<PyTypeObject*>kind, <PyObject*>arguments, NULL)
