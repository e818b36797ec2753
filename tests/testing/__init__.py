"""Tests of `ratchet.testing`."""
