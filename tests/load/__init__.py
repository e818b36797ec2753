"""More work than a server can do: what is done in time, and what becomes of the rest."""
