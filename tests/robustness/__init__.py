"""Tests of what happens when everything goes wrong: faults, kills, garbage, crowds."""
