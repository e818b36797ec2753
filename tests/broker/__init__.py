"""The bus over a broker: its bytes and its link by themselves, and real nodes, which the tests start and end."""
