"""Messages of banks become tables of canonical columns, which the importer takes as it takes files.

A payment is a row. What is none, or cannot be read, is refused as it came, with its place.
"""
