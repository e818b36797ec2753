"""Tests of the examples, each run as a program of its own."""
