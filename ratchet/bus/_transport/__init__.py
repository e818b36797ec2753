"""One connected socket, with or without TLS, and connecting it: kinds of bus that need one stand on this."""
