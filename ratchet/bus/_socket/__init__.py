"""The bus over TCP, Unix sockets and TLS."""
