"""The peers, one module each: their servers, and the clients that measure them."""
