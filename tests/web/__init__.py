"""Tests of the web examples, each run as a program of its own and used over HTTP."""
