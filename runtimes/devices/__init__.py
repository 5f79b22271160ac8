"""Devices: where a runtime executes."""
