"""The bus over a broker: its bytes and its link by themselves, and real nodes, started by the tests."""
