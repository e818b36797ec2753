"""Shared by every kind of bus; knows no socket."""
