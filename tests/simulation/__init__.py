"""The whole stack, simulated: clients, wire, connections and servers, in one process on virtual time."""
