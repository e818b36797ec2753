"""One set of tests for every kind of bus: what the contract promises, line by line."""
