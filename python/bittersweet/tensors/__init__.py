"""Borrowed memory: arrays, masks, the packed table, devices. Knows no model and no selector."""
