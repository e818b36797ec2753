from ratchet cimport _native
