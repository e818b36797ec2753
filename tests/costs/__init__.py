"""Tests of what one exchange costs: counted, not timed, so the same on a busy machine."""
