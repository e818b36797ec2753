from ratchet.bus._core.deadline cimport inherited_deadline, request_deadline
