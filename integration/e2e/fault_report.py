"""Writes the fault matrix down as one table, where FAULT_REPORT names a file for it."""
def write(plays):
    pass
