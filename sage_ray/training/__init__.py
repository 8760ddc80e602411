"""The two-phase trainer: pure steps, one linear loop, all machinery behind `RunContext`."""
