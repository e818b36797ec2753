"""The bus over a broker: its parts, each without one."""
